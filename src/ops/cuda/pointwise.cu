// Operations on each number by itself, or on few: gated activations, rotation, dropout, sums.

#include "common.cuh"

template <class T> __device__ void swiglu_forward(const T *gate, const T *up, T *y, long long count) {
    map<T, 2, 1>({gate, up}, {y}, count,
                 [](const float(&x)[2], float(&y)[1]) { y[0] = x[0] * sigmoid(x[0]) * x[1]; });
}

template <class T>
__device__ void swiglu_backward(const T *gate, const T *up, const T *dy, T *d_gate, T *d_up, long long count) {
    map<T, 3, 2>({gate, up, dy}, {d_gate, d_up}, count, [](const float(&x)[3], float(&d)[2]) {
        const float s = sigmoid(x[0]);
        d[0] = x[2] * x[1] * s * (1.0f + x[0] * (1.0f - s));
        d[1] = x[2] * x[0] * s;
    });
}

// Activations by number, in the order of the host's list.
enum { GELU = 0, QUICK_GELU = 1, SILU = 2 };

__device__ __forceinline__ float activation(float x, int kind) {
    if (kind == GELU) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    return x * sigmoid(kind == QUICK_GELU ? 1.702f * x : x);
}

__device__ __forceinline__ float activation_slope(float x, int kind) {
    if (kind == GELU) {
        return 0.5f * (1.0f + erff(x * 0.70710678f)) + x * 0.39894228f * expf(-0.5f * x * x);
    }
    const float factor = kind == QUICK_GELU ? 1.702f : 1.0f, s = sigmoid(factor * x);
    return s * (1.0f + factor * x * (1.0f - s));
}

template <class T> __device__ void activation_forward(const T *x, T *y, long long count, int kind) {
    map<T, 1, 1>({x}, {y}, count, [kind](const float(&x)[1], float(&y)[1]) { y[0] = activation(x[0], kind); });
}

template <class T> __device__ void activation_backward(const T *x, const T *dy, T *dx, long long count, int kind) {
    map<T, 2, 1>({x, dy}, {dx}, count,
                 [kind](const float(&x)[2], float(&d)[1]) { d[0] = x[1] * activation_slope(x[0], kind); });
}

// x [rows, 2 * columns] holds values, then gates: y = value * gelu(gate).
template <class T> __device__ void geglu_forward(const T *x, T *y, long long rows, int columns) {
    for (long long at = thread_number(); at < rows * columns; at += thread_count()) {
        const T *row = x + at / columns * 2 * columns + at % columns;
        y[at] = Narrow<T>::of(wide(row[0]) * activation(wide(row[columns]), GELU));
    }
}

template <class T> __device__ void geglu_backward(const T *x, const T *dy, T *dx, long long rows, int columns) {
    for (long long at = thread_number(); at < rows * columns; at += thread_count()) {
        const long long place = at / columns * 2 * columns + at % columns;
        const float value = wide(x[place]), gate = wide(x[place + columns]), d = wide(dy[at]);
        dx[place] = Narrow<T>::of(d * activation(gate, GELU));
        dx[place + columns] = Narrow<T>::of(d * value * activation_slope(gate, GELU));
    }
}

// x [tokens, heads * head], cos and sin [tokens, half]: turns pairs (j, j + half) of each head by
// direction 1 or -1; what lies behind them stays.
template <class T>
__device__ void rope(const T *x, const float *cos, const float *sin, T *y, long long tokens, int heads, int head,
                     int half, float direction) {
    const int work = head - half;
    for (long long at = thread_number(); at < tokens * heads * work; at += thread_count()) {
        const int j = at % work;
        const long long row = at / work, token = row / heads;
        const T *from = x + row * head;
        T *to = y + row * head;
        if (j >= half) {
            to[half + j] = from[half + j];
            continue;
        }
        const float c = cos[token * half + j], s = direction * sin[token * half + j];
        const float first = wide(from[j]), second = wide(from[j + half]);
        to[j] = Narrow<T>::of(first * c - second * s);
        to[j + half] = Narrow<T>::of(second * c + first * s);
    }
}

// y = x + bias, of each row; the bias alone where x is null.
template <class T> __device__ void add_bias(const T *x, const float *bias, T *y, long long rows, int columns) {
    for (long long at = thread_number(); at < rows * columns; at += thread_count()) {
        y[at] = Narrow<T>::of((x ? wide(x[at]) : 0.0f) + bias[at % columns]);
    }
}

template <class T> __device__ void add_assign(T *sum, const T *addend, long long count) {
    map<T, 2, 1>({sum, addend}, {sum}, count, [](const float(&x)[2], float(&y)[1]) { y[0] = x[0] + x[1]; });
}

// Philox4x32-10, word `word` of the stream that `random.rs` describes.
__device__ __forceinline__ unsigned philox(unsigned long long word, unsigned purpose, unsigned item, unsigned step,
                                           unsigned key0, unsigned key1) {
    unsigned c0 = (unsigned)(word / 4), c1 = purpose, c2 = item, c3 = step;
    for (int round = 0; round < 10; round++) {
        if (round > 0) {
            key0 += 0x9E3779B9u;
            key1 += 0xBB67AE85u;
        }
        const unsigned low_a = c0 * 0xD2511F53u, high_a = __umulhi(c0, 0xD2511F53u);
        const unsigned low_b = c2 * 0xCD9E8D57u, high_b = __umulhi(c2, 0xCD9E8D57u);
        const unsigned n0 = high_b ^ c1 ^ key0, n2 = high_a ^ c3 ^ key1;
        c0 = n0;
        c1 = low_b;
        c2 = n2;
        c3 = low_a;
    }
    const unsigned words[4] = {c0, c1, c2, c3};
    return words[word % 4];
}

// y = x where the stream's word is at least `threshold`, times `kept`; else 0.
template <class T>
__device__ void dropout(const T *x, T *y, long long count, long long before, unsigned purpose, unsigned item,
                        unsigned step, unsigned key0, unsigned key1, unsigned threshold, float kept) {
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const bool stays = philox(before + at, purpose, item, step, key0, key1) >= threshold;
        y[at] = Narrow<T>::of(stays ? wide(x[at]) * kept : 0.0f);
    }
}

// Rows of an embedding or of activations: y[i] = x[rows[i]].
template <class T> __device__ void gather_rows(const T *x, const unsigned *rows, T *y, long long count, int columns) {
    for (long long at = thread_number(); at < count * columns; at += thread_count()) {
        y[at] = x[(long long)rows[at / columns] * columns + at % columns];
    }
}

// dx[rows[i]] = dy[i]; other rows are left as they are.
template <class T> __device__ void scatter_rows(const T *dy, const unsigned *rows, T *dx, long long count, int columns) {
    for (long long at = thread_number(); at < count * columns; at += thread_count()) {
        dx[(long long)rows[at / columns] * columns + at % columns] = dy[at];
    }
}

// to[row, to_first + i] = from[row, from_first + i] for i < width.
template <class T>
__device__ void copy_columns(const T *from, T *to, long long rows, int width, int from_columns, int from_first,
                             int to_columns, int to_first) {
    for (long long at = thread_number(); at < rows * width; at += thread_count()) {
        const long long row = at / width;
        const int column = at % width;
        to[row * to_columns + to_first + column] = from[row * from_columns + from_first + column];
    }
}

// y = z * magnitude / norm, column by column.
template <class T>
__device__ void scale_columns(const T *z, const float *magnitudes, const float *norms, T *y, long long rows,
                              int columns) {
    for (long long at = thread_number(); at < rows * columns; at += thread_count()) {
        const int column = at % columns;
        y[at] = Narrow<T>::of(wide(z[at]) * (magnitudes[column] / norms[column]));
    }
}

// sums[column] = the sum of z * dy over the rows, over the norm: a block takes 32 columns, its eight
// warps take turns.
template <class T>
__device__ void magnitude_gradient(const T *z, const T *dy, const float *norms, float *sums, long long rows,
                                   int columns) {
    __shared__ float parts[8][32];
    const int column = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (column < columns) {
        for (long long row = threadIdx.y; row < rows; row += 8) {
            sum += wide(z[row * columns + column]) * wide(dy[row * columns + column]);
        }
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && column < columns) {
        for (int i = 1; i < 8; i++) sum += parts[i][threadIdx.x];
        sums[column] = sum / norms[column];
    }
}

#define POINTWISE(T, NAME)                                                                                         \
    KERNEL(swiglu_forward_##NAME, (const T *gate, const T *up, T *y, long long count)) {                           \
        swiglu_forward<T>(gate, up, y, count);                                                                     \
    }                                                                                                              \
    KERNEL(swiglu_backward_##NAME,                                                                                 \
           (const T *gate, const T *up, const T *dy, T *d_gate, T *d_up, long long count)) {                       \
        swiglu_backward<T>(gate, up, dy, d_gate, d_up, count);                                                     \
    }                                                                                                              \
    KERNEL(activation_forward_##NAME, (const T *x, T *y, long long count, int kind)) {                             \
        activation_forward<T>(x, y, count, kind);                                                                  \
    }                                                                                                              \
    KERNEL(activation_backward_##NAME, (const T *x, const T *dy, T *dx, long long count, int kind)) {              \
        activation_backward<T>(x, dy, dx, count, kind);                                                            \
    }                                                                                                              \
    KERNEL(geglu_forward_##NAME, (const T *x, T *y, long long rows, int columns)) {                                \
        geglu_forward<T>(x, y, rows, columns);                                                                     \
    }                                                                                                              \
    KERNEL(geglu_backward_##NAME, (const T *x, const T *dy, T *dx, long long rows, int columns)) {                 \
        geglu_backward<T>(x, dy, dx, rows, columns);                                                               \
    }                                                                                                              \
    KERNEL(rope_##NAME, (const T *x, const float *cos, const float *sin, T *y, long long tokens, int heads,        \
                         int head, int half, float direction)) {                                                   \
        rope<T>(x, cos, sin, y, tokens, heads, head, half, direction);                                             \
    }                                                                                                              \
    KERNEL(add_bias_##NAME, (const T *x, const float *bias, T *y, long long rows, int columns)) {                  \
        add_bias<T>(x, bias, y, rows, columns);                                                                    \
    }                                                                                                              \
    KERNEL(add_assign_##NAME, (T * sum, const T *addend, long long count)) { add_assign<T>(sum, addend, count); }  \
    KERNEL(dropout_##NAME,                                                                                         \
           (const T *x, T *y, long long count, long long before, unsigned purpose, unsigned item, unsigned step,   \
            unsigned key0, unsigned key1, unsigned threshold, float kept)) {                                       \
        dropout<T>(x, y, count, before, purpose, item, step, key0, key1, threshold, kept);                         \
    }                                                                                                              \
    KERNEL(gather_rows_##NAME, (const T *x, const unsigned *rows, T *y, long long count, int columns)) {           \
        gather_rows<T>(x, rows, y, count, columns);                                                                \
    }                                                                                                              \
    KERNEL(scatter_rows_##NAME, (const T *dy, const unsigned *rows, T *dx, long long count, int columns)) {        \
        scatter_rows<T>(dy, rows, dx, count, columns);                                                             \
    }                                                                                                              \
    KERNEL(copy_columns_##NAME, (const T *from, T *to, long long rows, int width, int from_columns,                \
                                 int from_first, int to_columns, int to_first)) {                                  \
        copy_columns<T>(from, to, rows, width, from_columns, from_first, to_columns, to_first);                    \
    }                                                                                                              \
    KERNEL(scale_columns_##NAME, (const T *z, const float *magnitudes, const float *norms, T *y, long long rows,   \
                                  int columns)) {                                                                  \
        scale_columns<T>(z, magnitudes, norms, y, rows, columns);                                                  \
    }                                                                                                              \
    KERNEL(magnitude_gradient_##NAME,                                                                              \
           (const T *z, const T *dy, const float *norms, float *sums, long long rows, int columns)) {              \
        magnitude_gradient<T>(z, dy, norms, sums, rows, columns);                                                  \
    }
FOR_FLOATS(POINTWISE)
