// Softmax attention on tensor cores, forward and backward, for heads of up to HEAD numbers of type
// NUMBER: tiles of queries meet tiles of keys, scores live in registers only (Dao, "FlashAttention-2",
// arXiv:2307.08691). Every sum has one owner and one order: equal inputs give equal bits.
//
// q, y and dy are [tokens, heads * size], k and v [keys, key_heads * size]. Tiles are described by
// six numbers each: first row, rows, first row of the span's other side, rows there, `offset`, 0.
// Query i of a tile sees the span's keys before offset + i + 1, with a window only the last of them;
// without `causal`, all.

#include "mma.cuh"
#include "sight.cuh"

#ifndef ATTENTION_PARTS
#define ATTENTION_PARTS
#define PASTE_(A, B, C) A##B##_##C
#define PASTE(A, B, C) PASTE_(A, B, C)

constexpr int TILE = 64;
constexpr int THREADS = 128;
constexpr float LOG2_E = 1.4426950408889634f;

// Rows of `size` numbers, `stride` apart, to rows of D numbers, D + 8 apart; what is not there is 0.
template <class T, int D>
__device__ __forceinline__ void load_tile(T *to, const T *from, int rows, int count, long long stride, int size) {
    const bool packed = aligned(from) && stride % 8 == 0 && size % 8 == 0;
    for (int i = threadIdx.x; i < rows * (D / 8); i += THREADS) {
        const int row = i / (D / 8), column = i % (D / 8) * 8;
        Pack<T> numbers;
#pragma unroll
        for (int j = 0; j < 8; j++) numbers.numbers[j] = Narrow<T>::of(0.0f);
        if (row < count && column < size) {
            const T *source = from + row * stride + column;
            if (packed) {
                numbers = *reinterpret_cast<const Pack<T> *>(source);
            } else {
                for (int j = 0; j < 8; j++) {
                    if (column + j < size) numbers.numbers[j] = source[j];
                }
            }
        }
        *reinterpret_cast<Pack<T> *>(to + row * (D + 8) + column) = numbers;
    }
}

// Sums over the four threads of a row of an accumulator.
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(0xffffffffu, x, 1);
    return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
    return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}

// c += left rows^T, for a left factor in registers and ROWS rows of a tile.
template <class T, int D, int ROWS>
__device__ __forceinline__ void times_rows(float (&c)[ROWS / 8][4], const unsigned (&left)[D / 16][4], const T *rows) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
#pragma unroll
        for (int n = 0; n < ROWS / 16; n++) {
            unsigned b[4];
            load_right_rows(b, rows + n * 16 * (D + 8) + k * 16, D + 8);
            multiply(c[2 * n], left[k], b[0], b[1], T());
            multiply(c[2 * n + 1], left[k], b[2], b[3], T());
        }
    }
}

// c += left tile, for an accumulator as the left factor and COUNT rows of a tile.
template <class T, int D, int COUNT>
__device__ __forceinline__ void times_tile(float (&c)[D / 8][4], const float (&left)[COUNT / 8][4], const T *tile) {
#pragma unroll
    for (int k = 0; k < COUNT / 16; k++) {
        const unsigned a[4] = {pack<T>(left[2 * k][0], left[2 * k][1]), pack<T>(left[2 * k][2], left[2 * k][3]),
                               pack<T>(left[2 * k + 1][0], left[2 * k + 1][1]),
                               pack<T>(left[2 * k + 1][2], left[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            unsigned b[4];
            load_right(b, tile + k * 16 * (D + 8) + n * 16, D + 8);
            multiply(c[2 * n], a, b[0], b[1], T());
            multiply(c[2 * n + 1], a, b[2], b[3], T());
        }
    }
}

// Writes the rows of an accumulator, each times its factor.
template <class T, int D>
__device__ __forceinline__ void store_rows(T *to, const float (&c)[D / 8][4], const float (&factor)[2], int first,
                                           int count, long long stride, int size) {
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int row = first + g + 8 * half;
        if (row >= count) continue;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            for (int i = 0; i < 2; i++) {
                const int column = n * 8 + 2 * t + i;
                if (column < size) to[row * stride + column] = Narrow<T>::of(c[n][2 * half + i] * factor[half]);
            }
        }
    }
}

template <class T, int D>
__device__ __forceinline__ void load_lefts(unsigned (&left)[D / 16][4], const T *tile, int first) {
#pragma unroll
    for (int k = 0; k < D / 16; k++) load_left(left[k], tile + first * (D + 8) + k * 16, D + 8);
}

template <int N> __device__ __forceinline__ void clear(float (&c)[N][4]) {
#pragma unroll
    for (int n = 0; n < N; n++) {
#pragma unroll
        for (int i = 0; i < 4; i++) c[n][i] = 0.0f;
    }
}

template <class T, int D>
__device__ __forceinline__ void attention_forward(const T *q, const T *k, const T *v, T *y, float *normalisers,
                                                  const int *tiles, int key_heads, int size, int window, int causal,
                                                  float scale) {
    DYNAMIC_SHARED(memory);
    T *keys = reinterpret_cast<T *>(memory), *values = keys + TILE * (D + 8);
    const int *tile = tiles + 6 * blockIdx.x;
    const int heads = gridDim.y, head = blockIdx.y, key_head = head / (heads / key_heads);
    const int first = tile[0], count = tile[1], first_key = tile[2];
    const Sight sight = {tile[3], tile[4], window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

    load_tile<T, D>(keys, q + first * q_stride + head * size, TILE, count, q_stride, size);
    __syncthreads();
    unsigned queries[D / 16][4];
    load_lefts<T, D>(queries, keys, warp * 16);

    float sums[D / 8][4];
    clear(sums);
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0.0f, 0.0f};
    const int last = sight.end(count - 1);
    for (int base = sight.start(0) / TILE * TILE; base < last; base += TILE) {
        __syncthreads();
        const long long row = (first_key + base) * k_stride + key_head * size;
        load_tile<T, D>(keys, k + row, TILE, sight.keys - base, k_stride, size);
        load_tile<T, D>(values, v + row, TILE, sight.keys - base, k_stride, size);
        __syncthreads();
        float scores[TILE / 8][4];
        clear(scores);
        times_rows<T, D, TILE>(scores, queries, keys);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int query = warp * 16 + g + 8 * half;
            float here = -INFINITY;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                for (int i = 0; i < 2; i++) {
                    float &score = scores[n][2 * half + i];
                    const bool seen = query < count && sight.sees(query, base + n * 8 + 2 * t + i);
                    score = seen ? score * scale * LOG2_E : -INFINITY;
                    here = fmaxf(here, score);
                }
            }
            const float now = fmaxf(most[half], quad_max(here));
            // A query that has seen no key yet keeps its zeros.
            const float reference = now == -INFINITY ? 0.0f : now;
            const float factor = exp2f(most[half] - reference);
            most[half] = now;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < TILE / 8; n++) {
                for (int i = 0; i < 2; i++) {
                    float &score = scores[n][2 * half + i];
                    score = exp2f(score - reference);
                    sum += score;
                }
            }
            total[half] = total[half] * factor + sum;
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                sums[n][2 * half] *= factor;
                sums[n][2 * half + 1] *= factor;
            }
        }
        times_tile<T, D, TILE>(sums, scores, values);
    }
    float inverse[2];
    for (int half = 0; half < 2; half++) {
        const float all = quad_sum(total[half]);
        const int query = warp * 16 + g + 8 * half;
        inverse[half] = all > 0.0f ? 1.0f / all : 0.0f;
        if (query < count && t == 0) {
            normalisers[(long long)(first + query) * heads + head] = most[half] + log2f(all);
        }
    }
    store_rows<T, D>(y + first * q_stride + head * size, sums, inverse, warp * 16, count, q_stride, size);
}

template <class T, int D>
__device__ __forceinline__ void attention_backward_queries(const T *q, const T *k, const T *v, const T *dy,
                                                           const float *normalisers, const float *means, T *dq,
                                                           const int *tiles, int key_heads, int size, int window,
                                                           int causal, float scale) {
    // Fewer keys at once for wide heads: the registers hold two factors and three accumulators.
    constexpr int KEYS = D > 96 ? 32 : 64;
    DYNAMIC_SHARED(memory);
    T *keys = reinterpret_cast<T *>(memory), *values = keys + TILE * (D + 8);
    const int *tile = tiles + 6 * blockIdx.x;
    const int heads = gridDim.y, head = blockIdx.y, key_head = head / (heads / key_heads);
    const int first = tile[0], count = tile[1], first_key = tile[2];
    const Sight sight = {tile[3], tile[4], window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

    load_tile<T, D>(keys, q + first * q_stride + head * size, TILE, count, q_stride, size);
    load_tile<T, D>(values, dy + first * q_stride + head * size, TILE, count, q_stride, size);
    __syncthreads();
    unsigned queries[D / 16][4], gradients[D / 16][4];
    load_lefts<T, D>(queries, keys, warp * 16);
    load_lefts<T, D>(gradients, values, warp * 16);

    float normaliser[2], mean[2], sums[D / 8][4];
    clear(sums);
    for (int half = 0; half < 2; half++) {
        const int query = warp * 16 + g + 8 * half;
        const long long at = (long long)(first + query) * heads + head;
        normaliser[half] = query < count ? normalisers[at] : 0.0f;
        mean[half] = query < count ? means[at] : 0.0f;
    }
    const int last = sight.end(count - 1);
    for (int base = sight.start(0) / KEYS * KEYS; base < last; base += KEYS) {
        __syncthreads();
        const long long row = (first_key + base) * k_stride + key_head * size;
        load_tile<T, D>(keys, k + row, KEYS, sight.keys - base, k_stride, size);
        load_tile<T, D>(values, v + row, KEYS, sight.keys - base, k_stride, size);
        __syncthreads();
        float scores[KEYS / 8][4], d_weights[KEYS / 8][4];
        clear(scores);
        clear(d_weights);
        times_rows<T, D, KEYS>(scores, queries, keys);
        times_rows<T, D, KEYS>(d_weights, gradients, values);
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int half = i / 2, query = warp * 16 + g + 8 * half;
                const bool seen = query < count && sight.sees(query, base + n * 8 + 2 * t + i % 2);
                const float weight = seen ? exp2f(scores[n][i] * scale * LOG2_E - normaliser[half]) : 0.0f;
                scores[n][i] = weight * (d_weights[n][i] - mean[half]);
            }
        }
        times_tile<T, D, KEYS>(sums, scores, keys);
    }
    const float factor[2] = {scale, scale};
    store_rows<T, D>(dq + first * q_stride + head * size, sums, factor, warp * 16, count, q_stride, size);
}

// Here a tile is one of keys, and the span's other side are its queries.
template <class T, int D>
__device__ __forceinline__ void attention_backward_keys(const T *q, const T *k, const T *v, const T *dy,
                                                        const float *normalisers, const float *means, T *dk, T *dv,
                                                        const int *tiles, int heads, int size, int window, int causal,
                                                        float scale) {
    constexpr int QUERIES = D > 96 ? 16 : 32;
    DYNAMIC_SHARED(memory);
    T *keys = reinterpret_cast<T *>(memory), *values = keys + TILE * (D + 8);
    T *queries = values + TILE * (D + 8), *gradients = queries + QUERIES * (D + 8);
    float *normaliser = reinterpret_cast<float *>(gradients + QUERIES * (D + 8)), *mean = normaliser + QUERIES;
    const int *tile = tiles + 6 * blockIdx.x;
    const int key_heads = gridDim.y, key_head = blockIdx.y, group = heads / key_heads;
    // The keys lie `before` the span's first query they could be seen by.
    const int first = tile[0], count = tile[1], first_query = tile[2], query_count = tile[3];
    const int offset = tile[4], first_in_span = tile[5];
    const Sight sight = {first_in_span + count, offset, window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

    load_tile<T, D>(keys, k + first * k_stride + key_head * size, TILE, count, k_stride, size);
    load_tile<T, D>(values, v + first * k_stride + key_head * size, TILE, count, k_stride, size);
    float dk_sums[D / 8][4], dv_sums[D / 8][4];
    clear(dk_sums);
    clear(dv_sums);
    // The first query that sees any of the keys, and the one after the last.
    const int from = causal ? max(0, first_in_span - offset) : 0;
    const int to = window > 0 ? min(query_count, first_in_span + count - 1 + window - offset) : query_count;
    for (int head = key_head * group; head < (key_head + 1) * group; head++) {
        for (int base = from / QUERIES * QUERIES; base < to; base += QUERIES) {
            __syncthreads();
            const long long row = (first_query + base) * q_stride + head * size;
            load_tile<T, D>(queries, q + row, QUERIES, query_count - base, q_stride, size);
            load_tile<T, D>(gradients, dy + row, QUERIES, query_count - base, q_stride, size);
            if (threadIdx.x < QUERIES) {
                const long long at = (long long)(first_query + base + threadIdx.x) * heads + head;
                const bool there = base + (int)threadIdx.x < query_count;
                normaliser[threadIdx.x] = there ? normalisers[at] : 0.0f;
                mean[threadIdx.x] = there ? means[at] : 0.0f;
            }
            __syncthreads();
            float weights[QUERIES / 8][4], d_scores[QUERIES / 8][4];
            clear(weights);
            clear(d_scores);
#pragma unroll
            for (int k_step = 0; k_step < D / 16; k_step++) {
                unsigned key[4], value[4];
                load_left(key, keys + warp * 16 * (D + 8) + k_step * 16, D + 8);
                load_left(value, values + warp * 16 * (D + 8) + k_step * 16, D + 8);
#pragma unroll
                for (int n = 0; n < QUERIES / 16; n++) {
                    unsigned b[4];
                    load_right_rows(b, queries + n * 16 * (D + 8) + k_step * 16, D + 8);
                    multiply(weights[2 * n], key, b[0], b[1], T());
                    multiply(weights[2 * n + 1], key, b[2], b[3], T());
                    load_right_rows(b, gradients + n * 16 * (D + 8) + k_step * 16, D + 8);
                    multiply(d_scores[2 * n], value, b[0], b[1], T());
                    multiply(d_scores[2 * n + 1], value, b[2], b[3], T());
                }
            }
#pragma unroll
            for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int key = first_in_span + warp * 16 + g + 8 * (i / 2), place = n * 8 + 2 * t + i % 2;
                    const int query = base + place;
                    const bool seen = query < query_count && sight.sees(query, key);
                    const float weight =
                        seen ? exp2f(weights[n][i] * scale * LOG2_E - normaliser[place]) : 0.0f;
                    weights[n][i] = weight;
                    d_scores[n][i] = weight * (d_scores[n][i] - mean[place]);
                }
            }
            times_tile<T, D, QUERIES>(dv_sums, weights, gradients);
            times_tile<T, D, QUERIES>(dk_sums, d_scores, queries);
        }
    }
    const float one[2] = {1.0f, 1.0f}, factor[2] = {scale, scale};
    store_rows<T, D>(dk + first * k_stride + key_head * size, dk_sums, factor, warp * 16, count, k_stride, size);
    store_rows<T, D>(dv + first * k_stride + key_head * size, dv_sums, one, warp * 16, count, k_stride, size);
}

#endif

KERNEL_OF(THREADS, PASTE(attention_forward_, HEAD, NAME),
          (const NUMBER *q, const NUMBER *k, const NUMBER *v, NUMBER *y, float *normalisers, const int *tiles,
           int key_heads, int size, int window, int causal, float scale)) {
    attention_forward<NUMBER, HEAD>(q, k, v, y, normalisers, tiles, key_heads, size, window, causal, scale);
}

KERNEL_OF(THREADS, PASTE(attention_backward_queries_, HEAD, NAME),
          (const NUMBER *q, const NUMBER *k, const NUMBER *v, const NUMBER *dy, const float *normalisers,
           const float *means, NUMBER *dq, const int *tiles, int key_heads, int size, int window, int causal,
           float scale)) {
    attention_backward_queries<NUMBER, HEAD>(q, k, v, dy, normalisers, means, dq, tiles, key_heads, size, window,
                                             causal, scale);
}

KERNEL_OF(THREADS, PASTE(attention_backward_keys_, HEAD, NAME),
          (const NUMBER *q, const NUMBER *k, const NUMBER *v, const NUMBER *dy, const float *normalisers,
           const float *means, NUMBER *dk, NUMBER *dv, const int *tiles, int heads, int size, int window, int causal,
           float scale)) {
    attention_backward_keys<NUMBER, HEAD>(q, k, v, dy, normalisers, means, dk, dv, tiles, heads, size, window, causal,
                                          scale);
}
