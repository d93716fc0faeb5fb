// Blocks of ggml's encodings to plain numbers. Layouts: ggml-common.h, `block_q4_0` and so on.
//
// A thread decodes eight numbers, which share their block's scales, and writes them at once.

#include "common.cuh"

__device__ __forceinline__ float half_at(const unsigned char *bytes) {
    const unsigned short bits = (unsigned short)(bytes[0] | bytes[1] << 8);
    f16 number;
    memcpy(&number, &bits, 2);
    return __half2float(number);
}

// Every encoding is `scale.x * q - scale.y`; eight numbers beside each other have the same scale.

struct Q4_0 {
    static constexpr int NUMBERS = 32, BYTES = 18;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b), 0.0f);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        return (i < 16 ? b[2 + i] & 15 : b[2 + i - 16] >> 4) - 8;
    }
};

struct Q4_1 {
    static constexpr int NUMBERS = 32, BYTES = 20;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b), -half_at(b + 2));
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        return i < 16 ? b[4 + i] & 15 : b[4 + i - 16] >> 4;
    }
};

__device__ __forceinline__ int five_bits(const unsigned char *high, const unsigned char *low, unsigned i) {
    const int bit = high[i / 8] >> (i % 8) & 1;
    return (i < 16 ? low[i] & 15 : low[i - 16] >> 4) | bit << 4;
}

struct Q5_0 {
    static constexpr int NUMBERS = 32, BYTES = 22;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b), 0.0f);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        return five_bits(b + 2, b + 6, i) - 16;
    }
};

struct Q5_1 {
    static constexpr int NUMBERS = 32, BYTES = 24;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b), -half_at(b + 2));
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) { return five_bits(b + 4, b + 8, i); }
};

struct Q8_0 {
    static constexpr int NUMBERS = 32, BYTES = 34;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b), 0.0f);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) { return (signed char)b[2 + i]; }
};

// 256 numbers in 16 parts: 4-bit scales and minima, 2-bit numbers.
struct Q2K {
    static constexpr int NUMBERS = 256, BYTES = 84;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        const int scale = b[i / 16];
        return make_float2(half_at(b + 80) * (scale & 15), half_at(b + 82) * (scale >> 4));
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        return b[16 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
    }
};

// 16 parts with 6-bit scales; the third bit of a number lies apart.
struct Q3K {
    static constexpr int NUMBERS = 256, BYTES = 110;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        const unsigned char *scales = b + 96;
        const int part = i / 16;
        const int low = part < 8 ? scales[part] & 15 : scales[part - 8] >> 4;
        const int high = scales[8 + part % 4] >> (part / 4 * 2) & 3;
        return make_float2(half_at(b + 108) * ((low | high << 4) - 32), 0.0f);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        const int low = b[32 + i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
        return low - (b[i % 32] >> (i / 32) & 1 ? 0 : 4);
    }
};

// The 6-bit scale and minimum of part `j` of 8, times those of the block.
__device__ __forceinline__ float2 scale_and_minimum(const unsigned char *b, int j) {
    const unsigned char *s = b + 4;
    const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    const int minimum = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    return make_float2(half_at(b) * scale, half_at(b + 2) * minimum);
}

struct Q4K {
    static constexpr int NUMBERS = 256, BYTES = 144;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return scale_and_minimum(b, i / 32);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        const int byte = b[16 + i / 64 * 32 + i % 32];
        return i % 64 < 32 ? byte & 15 : byte >> 4;
    }
};

struct Q5K {
    static constexpr int NUMBERS = 256, BYTES = 176;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return scale_and_minimum(b, i / 32);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        const int byte = b[48 + i / 64 * 32 + i % 32];
        const int bit = b[16 + i % 32] >> (i / 32) & 1;
        return (i % 64 < 32 ? byte & 15 : byte >> 4) + 16 * bit;
    }
};

struct Q6K {
    static constexpr int NUMBERS = 256, BYTES = 210;
    static __device__ __forceinline__ float2 scale(const unsigned char *b, unsigned i) {
        return make_float2(half_at(b + 208) * (signed char)b[192 + i / 16], 0.0f);
    }
    static __device__ __forceinline__ int q(const unsigned char *b, unsigned i) {
        const int half = i / 128, within = i % 128;
        const int byte = b[half * 64 + within % 64];
        const int low = within < 64 ? byte & 15 : byte >> 4;
        const int high = b[128 + half * 32 + within % 32] >> (within / 32 * 2) & 3;
        return (low | high << 4) - 32;
    }
};

// out[row, column] of the rows `rows` of the matrix; without `rows` (null) all in order. Where
// `heads` is not 0, the file keeps each head's rows in the order of interleaved rotary pairs.
template <class Block, class T>
__device__ void dequantize(const unsigned char *bytes, const unsigned *rows, T *out, long long count, int columns,
                           int matrix_rows, int heads) {
    constexpr int AT_ONCE = 8, PER = Pack<T>::COUNT;
    const int blocks = columns / Block::NUMBERS, packs = columns / AT_ONCE;
    for (long long at = thread_number(); at < count * packs; at += thread_count()) {
        const unsigned pack = (unsigned)(at % packs);
        long long row = rows ? rows[at / packs] : at / packs;
        if (heads > 0) {
            const int size = matrix_rows / heads, within = row % size, half = size / 2;
            row = row - within + 2 * (within % half) + within / half;
        }
        const unsigned char *block = bytes + (row * blocks + pack / (Block::NUMBERS / AT_ONCE)) * Block::BYTES;
        const unsigned first = pack % (Block::NUMBERS / AT_ONCE) * AT_ONCE;
        const float2 scale = Block::scale(block, first);
        Pack<T> numbers[AT_ONCE / PER];
#pragma unroll
        for (unsigned j = 0; j < AT_ONCE; j++) {
            numbers[j / PER].numbers[j % PER] = Narrow<T>::of(scale.x * Block::q(block, first | j) - scale.y);
        }
#pragma unroll
        for (int k = 0; k < AT_ONCE / PER; k++) reinterpret_cast<Pack<T> *>(out + at * AT_ONCE)[k] = numbers[k];
    }
}

#define DEQUANTIZE(BLOCK, T, NAME)                                                                                 \
    KERNEL(dequantize_##BLOCK##_##NAME, (const unsigned char *bytes, const unsigned *rows, T *out,                 \
                                         long long count, int columns, int matrix_rows, int heads)) {              \
        dequantize<BLOCK, T>(bytes, rows, out, count, columns, matrix_rows, heads);                                \
    }
#define DEQUANTIZE_ALL(T, NAME)                                                                                    \
    DEQUANTIZE(Q4_0, T, NAME) DEQUANTIZE(Q4_1, T, NAME) DEQUANTIZE(Q5_0, T, NAME) DEQUANTIZE(Q5_1, T, NAME)        \
    DEQUANTIZE(Q8_0, T, NAME) DEQUANTIZE(Q2K, T, NAME) DEQUANTIZE(Q3K, T, NAME) DEQUANTIZE(Q4K, T, NAME)           \
    DEQUANTIZE(Q5K, T, NAME) DEQUANTIZE(Q6K, T, NAME)
FOR_FLOATS(DEQUANTIZE_ALL)
