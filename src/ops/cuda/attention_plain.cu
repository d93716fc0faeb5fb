// Softmax attention without tensor cores: for f32, and for heads too wide for attention.cu, which
// tells the arguments. A block takes `rows` queries (or keys) of one head; sums are in f32.

#include "common.cuh"
#include "sight.cuh"

constexpr int AT_ONCE = 16;

// Rows to f32, `pitch` apart; rows that are not there are 0.
template <class T>
__device__ __forceinline__ void load_plain(float *to, int pitch, const T *from, int rows, int count, long long stride,
                                           int size) {
    for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
        const int row = i / size, column = i % size;
        to[row * pitch + column] = row < count ? wide(from[row * stride + column]) : 0.0f;
    }
}

__device__ __forceinline__ float dot(const float *a, const float *b, int size) {
    float sum = 0.0f;
    for (int i = 0; i < size; i++) sum += a[i] * b[i];
    return sum;
}

template <class T>
__device__ void plain_forward(const T *q, const T *k, const T *v, T *y, float *normalisers, const int *tiles,
                              int key_heads, int size, int window, int causal, float scale, int rows) {
    DYNAMIC_SHARED(memory);
    float *queries = reinterpret_cast<float *>(memory), *sums = queries + rows * size;
    float *keys = sums + rows * size, *weights = keys + AT_ONCE * (size + 1);
    float *most = weights + rows * AT_ONCE, *total = most + rows, *factor = total + rows;
    const int *tile = tiles + 6 * blockIdx.x;
    const int heads = gridDim.y, head = blockIdx.y, key_head = head / (heads / key_heads);
    const int first = tile[0], count = tile[1], first_key = tile[2];
    const Sight sight = {tile[3], tile[4], window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    load_plain(queries, size, q + first * q_stride + head * size, rows, count, q_stride, size);
    for (int i = threadIdx.x; i < rows * size; i += blockDim.x) sums[i] = 0.0f;
    for (int i = threadIdx.x; i < rows; i += blockDim.x) {
        most[i] = -INFINITY;
        total[i] = 0.0f;
    }
    const int last = sight.end(count - 1);
    for (int base = sight.start(0) / AT_ONCE * AT_ONCE; base < last; base += AT_ONCE) {
        const int here = min(AT_ONCE, sight.keys - base);
        const long long at = (first_key + base) * k_stride + key_head * size;
        __syncthreads();
        load_plain(keys, size + 1, k + at, AT_ONCE, here, k_stride, size);
        __syncthreads();
        for (int i = threadIdx.x; i < rows * AT_ONCE; i += blockDim.x) {
            const int row = i / AT_ONCE, key = i % AT_ONCE;
            const bool seen = row < count && key < here && sight.sees(row, base + key);
            weights[i] = seen ? dot(queries + row * size, keys + key * (size + 1), size) * scale : -INFINITY;
        }
        __syncthreads();
        for (int row = threadIdx.x; row < rows; row += blockDim.x) {
            float now = most[row];
            for (int key = 0; key < AT_ONCE; key++) now = fmaxf(now, weights[row * AT_ONCE + key]);
            const float reference = now == -INFINITY ? 0.0f : now;
            float sum = 0.0f;
            for (int key = 0; key < AT_ONCE; key++) {
                float &weight = weights[row * AT_ONCE + key];
                weight = expf(weight - reference);
                sum += weight;
            }
            factor[row] = expf(most[row] - reference);
            total[row] = total[row] * factor[row] + sum;
            most[row] = now;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
            const int row = i / size, column = i % size;
            float sum = sums[i] * factor[row];
            for (int key = 0; key < here; key++) {
                sum += weights[row * AT_ONCE + key] * wide(v[at + key * k_stride + column]);
            }
            sums[i] = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * size; i += blockDim.x) {
        const int row = i / size;
        const float all = total[row];
        y[(first + row) * q_stride + head * size + i % size] = Narrow<T>::of(all > 0.0f ? sums[i] / all : 0.0f);
    }
    for (int row = threadIdx.x; row < count; row += blockDim.x) {
        normalisers[(long long)(first + row) * heads + head] = most[row] + logf(total[row]);
    }
}

// means[token, head] = y dy: what the softmax's backward takes off. One warp each.
template <class T>
__device__ void attention_means(const T *y, const T *dy, float *means, long long rows, int size) {
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;
    float sum = 0.0f;
    if (row < rows) {
        for (int i = threadIdx.x; i < size; i += 32) sum += wide(y[row * size + i]) * wide(dy[row * size + i]);
    }
    sum = warp_sum(sum);
    if (row < rows && threadIdx.x == 0) means[row] = sum;
}

template <class T>
__device__ void plain_backward_queries(const T *q, const T *k, const T *v, const T *dy, const float *normalisers,
                                       const float *means, T *dq, const int *tiles, int key_heads, int size,
                                       int window, int causal, float scale, int rows) {
    DYNAMIC_SHARED(memory);
    float *queries = reinterpret_cast<float *>(memory), *gradients = queries + rows * size;
    float *sums = gradients + rows * size, *keys = sums + rows * size;
    float *values = keys + AT_ONCE * (size + 1), *d_scores = values + AT_ONCE * (size + 1);
    const int *tile = tiles + 6 * blockIdx.x;
    const int heads = gridDim.y, head = blockIdx.y, key_head = head / (heads / key_heads);
    const int first = tile[0], count = tile[1], first_key = tile[2];
    const Sight sight = {tile[3], tile[4], window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    load_plain(queries, size, q + first * q_stride + head * size, rows, count, q_stride, size);
    load_plain(gradients, size, dy + first * q_stride + head * size, rows, count, q_stride, size);
    for (int i = threadIdx.x; i < rows * size; i += blockDim.x) sums[i] = 0.0f;
    const int last = sight.end(count - 1);
    for (int base = sight.start(0) / AT_ONCE * AT_ONCE; base < last; base += AT_ONCE) {
        const int here = min(AT_ONCE, sight.keys - base);
        const long long at = (first_key + base) * k_stride + key_head * size;
        __syncthreads();
        load_plain(keys, size + 1, k + at, AT_ONCE, here, k_stride, size);
        load_plain(values, size + 1, v + at, AT_ONCE, here, k_stride, size);
        __syncthreads();
        for (int i = threadIdx.x; i < rows * AT_ONCE; i += blockDim.x) {
            const int row = i / AT_ONCE, key = i % AT_ONCE;
            float d = 0.0f;
            if (row < count && key < here && sight.sees(row, base + key)) {
                const long long of_row = (long long)(first + row) * heads + head;
                const float score = dot(queries + row * size, keys + key * (size + 1), size) * scale;
                const float weight = expf(score - normalisers[of_row]);
                d = weight * (dot(gradients + row * size, values + key * (size + 1), size) - means[of_row]);
            }
            d_scores[i] = d;
        }
        __syncthreads();
        for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
            const int row = i / size, column = i % size;
            float sum = sums[i];
            for (int key = 0; key < AT_ONCE; key++) {
                sum += d_scores[row * AT_ONCE + key] * keys[key * (size + 1) + column];
            }
            sums[i] = sum;
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * size; i += blockDim.x) {
        dq[(first + i / size) * q_stride + head * size + i % size] = Narrow<T>::of(sums[i] * scale);
    }
}

template <class T>
__device__ void plain_backward_keys(const T *q, const T *k, const T *v, const T *dy, const float *normalisers,
                                    const float *means, T *dk, T *dv, const int *tiles, int heads, int size,
                                    int window, int causal, float scale, int rows) {
    DYNAMIC_SHARED(memory);
    float *keys = reinterpret_cast<float *>(memory), *values = keys + rows * size;
    float *dk_sums = values + rows * size, *dv_sums = dk_sums + rows * size;
    float *queries = dv_sums + rows * size, *gradients = queries + AT_ONCE * (size + 1);
    float *weights = gradients + AT_ONCE * (size + 1), *d_scores = weights + rows * AT_ONCE;
    const int *tile = tiles + 6 * blockIdx.x;
    const int key_heads = gridDim.y, key_head = blockIdx.y, group = heads / key_heads;
    const int first = tile[0], count = tile[1], first_query = tile[2], query_count = tile[3];
    const int offset = tile[4], first_in_span = tile[5];
    const Sight sight = {first_in_span + count, offset, window, causal};
    const long long q_stride = (long long)heads * size, k_stride = (long long)key_heads * size;
    load_plain(keys, size, k + first * k_stride + key_head * size, rows, count, k_stride, size);
    load_plain(values, size, v + first * k_stride + key_head * size, rows, count, k_stride, size);
    for (int i = threadIdx.x; i < 2 * rows * size; i += blockDim.x) dk_sums[i] = 0.0f;
    const int from = causal ? max(0, first_in_span - offset) : 0;
    const int to = window > 0 ? min(query_count, first_in_span + count - 1 + window - offset) : query_count;
    for (int head = key_head * group; head < (key_head + 1) * group; head++) {
        for (int base = from / AT_ONCE * AT_ONCE; base < to; base += AT_ONCE) {
            const int here = min(AT_ONCE, query_count - base);
            const long long at = (first_query + base) * q_stride + head * size;
            __syncthreads();
            load_plain(queries, size + 1, q + at, AT_ONCE, here, q_stride, size);
            load_plain(gradients, size + 1, dy + at, AT_ONCE, here, q_stride, size);
            __syncthreads();
            for (int i = threadIdx.x; i < rows * AT_ONCE; i += blockDim.x) {
                const int row = i / AT_ONCE, query = i % AT_ONCE;
                float weight = 0.0f, d = 0.0f;
                if (row < count && query < here && sight.sees(base + query, first_in_span + row)) {
                    const long long of_query = (long long)(first_query + base + query) * heads + head;
                    const float score = dot(keys + row * size, queries + query * (size + 1), size) * scale;
                    weight = expf(score - normalisers[of_query]);
                    d = weight * (dot(values + row * size, gradients + query * (size + 1), size) - means[of_query]);
                }
                weights[i] = weight;
                d_scores[i] = d;
            }
            __syncthreads();
            for (int i = threadIdx.x; i < rows * size; i += blockDim.x) {
                const int row = i / size, column = i % size;
                float dk_sum = dk_sums[i], dv_sum = dv_sums[i];
                for (int query = 0; query < AT_ONCE; query++) {
                    dk_sum += d_scores[row * AT_ONCE + query] * queries[query * (size + 1) + column];
                    dv_sum += weights[row * AT_ONCE + query] * gradients[query * (size + 1) + column];
                }
                dk_sums[i] = dk_sum;
                dv_sums[i] = dv_sum;
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < count * size; i += blockDim.x) {
        const long long at = (first + i / size) * k_stride + key_head * size + i % size;
        dk[at] = Narrow<T>::of(dk_sums[i] * scale);
        dv[at] = Narrow<T>::of(dv_sums[i]);
    }
}

#define PLAIN_ATTENTION(T, NAME)                                                                                   \
    KERNEL(attention_forward_plain_##NAME,                                                                         \
           (const T *q, const T *k, const T *v, T *y, float *normalisers, const int *tiles, int key_heads,         \
            int size, int window, int causal, float scale, int rows)) {                                            \
        plain_forward<T>(q, k, v, y, normalisers, tiles, key_heads, size, window, causal, scale, rows);            \
    }                                                                                                              \
    KERNEL(attention_means_##NAME, (const T *y, const T *dy, float *means, long long rows, int size)) {            \
        attention_means<T>(y, dy, means, rows, size);                                                              \
    }                                                                                                              \
    KERNEL(attention_backward_queries_plain_##NAME,                                                                \
           (const T *q, const T *k, const T *v, const T *dy, const float *normalisers, const float *means, T *dq,  \
            const int *tiles, int key_heads, int size, int window, int causal, float scale, int rows)) {           \
        plain_backward_queries<T>(q, k, v, dy, normalisers, means, dq, tiles, key_heads, size, window, causal,     \
                                  scale, rows);                                                                    \
    }                                                                                                              \
    KERNEL(attention_backward_keys_plain_##NAME,                                                                   \
           (const T *q, const T *k, const T *v, const T *dy, const float *normalisers, const float *means, T *dk,  \
            T *dv, const int *tiles, int heads, int size, int window, int causal, float scale, int rows)) {        \
        plain_backward_keys<T>(q, k, v, dy, normalisers, means, dk, dv, tiles, heads, size, window, causal, scale, \
                               rows);                                                                              \
    }
FOR_FLOATS(PLAIN_ATTENTION)
