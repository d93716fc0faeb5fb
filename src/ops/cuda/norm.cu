// RMSNorm, LayerNorm and GroupNorm: numbers of type T, weights and sums in f32.

#include "common.cuh"

// A row of a block's threads (blockDim.x) takes a row of `columns` numbers; blockDim.y rows a block.
#define ROW_OR_RETURN                                                              \
    const long long row = (long long)blockIdx.x * blockDim.y + threadIdx.y;        \
    const bool there = row < rows;                                                 \
    const int columns_here = there ? columns : 0

template <class T>
__device__ void rms_norm_forward(const T *x, const float *weight, T *y, long long rows, int columns, float eps) {
    ROW_OR_RETURN;
    x += row * columns;
    y += row * columns;
    float squares = 0.0f;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        const float number = wide(x[i]);
        squares += number * number;
    }
    const float scale = 1.0f / sqrtf(row_sum(squares) / columns + eps);
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        y[i] = Narrow<T>::of(wide(x[i]) * scale * weight[i]);
    }
}

template <class T>
__device__ void rms_norm_backward(const T *x, const T *dy, const float *weight, T *dx, long long rows, int columns,
                                  float eps) {
    ROW_OR_RETURN;
    x += row * columns;
    dy += row * columns;
    dx += row * columns;
    float squares = 0.0f, product = 0.0f;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        const float number = wide(x[i]);
        squares += number * number;
        product += wide(dy[i]) * weight[i] * number;
    }
    const float scale = 1.0f / sqrtf(row_sum(squares) / columns + eps);
    // d(scale)/dx_i = -scale^3 x_i / columns
    const float mean = row_sum(product) * scale * scale / columns;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        dx[i] = Narrow<T>::of(scale * (wide(dy[i]) * weight[i] - wide(x[i]) * mean));
    }
}

// The mean and the inverse standard deviation of a row, in two passes: a large mean costs no digits.
template <class T>
__device__ __forceinline__ float2 row_moments(const T *x, int columns_here, int columns, float eps) {
    float sum = 0.0f, squares = 0.0f;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) sum += wide(x[i]);
    const float mean = row_sum(sum) / columns;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        const float away = wide(x[i]) - mean;
        squares += away * away;
    }
    return make_float2(mean, 1.0f / sqrtf(row_sum(squares) / columns + eps));
}

template <class T>
__device__ void layer_norm_forward(const T *x, const float *weight, const float *bias, T *y, long long rows,
                                   int columns, float eps) {
    ROW_OR_RETURN;
    x += row * columns;
    y += row * columns;
    const float2 moments = row_moments(x, columns_here, columns, eps);
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        y[i] = Narrow<T>::of((wide(x[i]) - moments.x) * moments.y * weight[i] + bias[i]);
    }
}

template <class T>
__device__ void layer_norm_backward(const T *x, const T *dy, const float *weight, T *dx, long long rows, int columns,
                                    float eps) {
    ROW_OR_RETURN;
    x += row * columns;
    dy += row * columns;
    dx += row * columns;
    const float2 moments = row_moments(x, columns_here, columns, eps);
    float sum = 0.0f, product = 0.0f;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        const float d = wide(dy[i]) * weight[i];
        sum += d;
        product += d * (wide(x[i]) - moments.x) * moments.y;
    }
    const float mean = row_sum(sum) / columns, slope = row_sum(product) / columns;
    for (int i = threadIdx.x; i < columns_here; i += blockDim.x) {
        const float normal = (wide(x[i]) - moments.x) * moments.y;
        dx[i] = Narrow<T>::of(moments.y * (wide(dy[i]) * weight[i] - mean - normal * slope));
    }
}

#define NORMS(T, NAME)                                                                                             \
    KERNEL(rms_norm_forward_##NAME,                                                                                \
           (const T *x, const float *weight, T *y, long long rows, int columns, float eps)) {                      \
        rms_norm_forward<T>(x, weight, y, rows, columns, eps);                                                     \
    }                                                                                                              \
    KERNEL(rms_norm_backward_##NAME,                                                                               \
           (const T *x, const T *dy, const float *weight, T *dx, long long rows, int columns, float eps)) {        \
        rms_norm_backward<T>(x, dy, weight, dx, rows, columns, eps);                                               \
    }                                                                                                              \
    KERNEL(layer_norm_forward_##NAME, (const T *x, const float *weight, const float *bias, T *y, long long rows,   \
                                       int columns, float eps)) {                                                  \
        layer_norm_forward<T>(x, weight, bias, y, rows, columns, eps);                                             \
    }                                                                                                              \
    KERNEL(layer_norm_backward_##NAME,                                                                             \
           (const T *x, const T *dy, const float *weight, T *dx, long long rows, int columns, float eps)) {        \
        layer_norm_backward<T>(x, dy, weight, dx, rows, columns, eps);                                             \
    }
FOR_FLOATS(NORMS)

// GroupNorm of channels-last rows: x is [images, pixels, channels]. The pixels of an image are cut
// into `gridDim.x` slices; partial sums of a slice are brought together in order.

// Of each image, slice and group: count, mean and sum of squared distances (Welford; Chan et al.).
template <class T>
__device__ void group_norm_moments(const T *x, float *partial, int pixels, int channels, int groups) {
    DYNAMIC_SHARED(memory);
    float *of_channel = reinterpret_cast<float *>(memory);
    const int slices = gridDim.x, slice = blockIdx.x, image = blockIdx.y;
    const int first = (long long)pixels * slice / slices, last = (long long)pixels * (slice + 1) / slices;
    const int size = channels / groups;
    x += (long long)image * pixels * channels;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        float mean = 0.0f, squares = 0.0f;
        for (int pixel = first; pixel < last; pixel++) {
            const float number = wide(x[(long long)pixel * channels + c]), away = number - mean;
            mean += away / (pixel - first + 1);
            squares += away * (number - mean);
        }
        of_channel[2 * c] = mean;
        of_channel[2 * c + 1] = squares;
    }
    __syncthreads();
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        float mean = 0.0f, squares = 0.0f;
        const float count = last - first;
        for (int i = 0; i < size && last > first; i++) {
            const float *channel = of_channel + 2 * (group * size + i);
            const float away = channel[0] - mean;
            mean += away / (i + 1);
            squares += channel[1] + away * (channel[0] - mean) * count;
        }
        float *out = partial + (((long long)image * slices + slice) * groups + group) * 2;
        out[0] = mean;
        out[1] = squares;
    }
}

// The mean and the inverse standard deviation of a group, out of its slices.
__device__ __forceinline__ float2 group_moments(const float *partial, int image, int group, int groups, int slices,
                                                int pixels, int size, float eps) {
    float mean = 0.0f, squares = 0.0f, count = 0.0f;
    for (int slice = 0; slice < slices; slice++) {
        const float here =
            (float)size * ((long long)pixels * (slice + 1) / slices - (long long)pixels * slice / slices);
        const float *p = partial + (((long long)image * slices + slice) * groups + group) * 2;
        if (here > 0.0f) {
            const float away = p[0] - mean, sum = count + here;
            squares += p[1] + away * away * count * here / sum;
            mean += away * here / sum;
            count = sum;
        }
    }
    return make_float2(mean, 1.0f / sqrtf(squares / count + eps));
}

__device__ __forceinline__ float silu(float x) { return x * sigmoid(x); }
__device__ __forceinline__ float silu_slope(float x) {
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

// moments[image, group]: mean and inverse standard deviation, of all slices.
KERNEL(group_norm_gather, (const float *partial, float *moments, int pixels, int channels, int groups, int slices,
                           int images, float eps)) {
    const long long at = thread_number();
    if (at >= (long long)images * groups) return;
    const float2 m = group_moments(partial, at / groups, at % groups, groups, slices, pixels, channels / groups, eps);
    moments[2 * at] = m.x;
    moments[2 * at + 1] = m.y;
}

// sums[image, group] of all slices, over the number of the group's numbers.
KERNEL(group_norm_means, (const float *partial, float *sums, int pixels, int channels, int groups, int slices,
                          int images)) {
    const long long at = thread_number();
    if (at >= (long long)images * groups) return;
    const int image = at / groups, group = at % groups;
    float sum = 0.0f, product = 0.0f;
    for (int slice = 0; slice < slices; slice++) {
        const float *p = partial + (((long long)image * slices + slice) * groups + group) * 2;
        sum += p[0];
        product += p[1];
    }
    const float count = (float)pixels * (channels / groups);
    sums[2 * at] = sum / count;
    sums[2 * at + 1] = product / count;
}

template <class T>
__device__ void group_norm_forward(const T *x, const float *moments, const float *weight, const float *bias, T *y,
                                   int pixels, int channels, int groups, int images, int activated) {
    const long long count = (long long)images * pixels * channels;
    const int size = channels / groups;
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const int c = at % channels;
        const float *m = moments + 2 * (at / channels / pixels * groups + c / size);
        const float z = (wide(x[at]) - m[0]) * m[1] * weight[c] + bias[c];
        y[at] = Narrow<T>::of(activated ? silu(z) : z);
    }
}

// The gradient with respect to the normal number, and that number.
template <class T>
__device__ __forceinline__ float2 group_norm_gradient(float x, float dy, const float *m, float weight, float bias,
                                                      int activated) {
    const float normal = (x - m[0]) * m[1];
    const float d = activated ? dy * silu_slope(normal * weight + bias) : dy;
    return make_float2(d * weight, normal);
}

// Of each image, slice and group: sums of the gradients and of their products with the normal numbers.
template <class T>
__device__ void group_norm_sums(const T *x, const T *dy, const float *moments, const float *weight, const float *bias,
                                float *partial, int pixels, int channels, int groups, int activated) {
    DYNAMIC_SHARED(memory);
    float *of_channel = reinterpret_cast<float *>(memory);
    const int slices = gridDim.x, slice = blockIdx.x, image = blockIdx.y;
    const int first = (long long)pixels * slice / slices, last = (long long)pixels * (slice + 1) / slices;
    const int size = channels / groups;
    x += (long long)image * pixels * channels;
    dy += (long long)image * pixels * channels;
    for (int c = threadIdx.x; c < channels; c += blockDim.x) {
        const float *m = moments + 2 * (image * groups + c / size);
        float sum = 0.0f, product = 0.0f;
        for (int pixel = first; pixel < last; pixel++) {
            const long long at = (long long)pixel * channels + c;
            const float2 g = group_norm_gradient<T>(wide(x[at]), wide(dy[at]), m, weight[c], bias[c], activated);
            sum += g.x;
            product += g.x * g.y;
        }
        of_channel[2 * c] = sum;
        of_channel[2 * c + 1] = product;
    }
    __syncthreads();
    for (int group = threadIdx.x; group < groups; group += blockDim.x) {
        float sum = 0.0f, product = 0.0f;
        for (int i = 0; i < size; i++) {
            sum += of_channel[2 * (group * size + i)];
            product += of_channel[2 * (group * size + i) + 1];
        }
        float *out = partial + (((long long)image * slices + slice) * groups + group) * 2;
        out[0] = sum;
        out[1] = product;
    }
}

template <class T>
__device__ void group_norm_backward(const T *x, const T *dy, const float *moments, const float *means,
                                    const float *weight, const float *bias, T *dx, int pixels, int channels,
                                    int groups, int images, int activated) {
    const long long count = (long long)images * pixels * channels;
    const int size = channels / groups;
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const int c = at % channels;
        const long long group = at / channels / pixels * groups + c / size;
        const float *m = moments + 2 * group;
        const float2 g = group_norm_gradient<T>(wide(x[at]), wide(dy[at]), m, weight[c], bias[c], activated);
        dx[at] = Narrow<T>::of(m[1] * (g.x - means[2 * group] - g.y * means[2 * group + 1]));
    }
}

#define GROUP_NORMS(T, NAME)                                                                                       \
    KERNEL(group_norm_moments_##NAME, (const T *x, float *partial, int pixels, int channels, int groups)) {        \
        group_norm_moments<T>(x, partial, pixels, channels, groups);                                               \
    }                                                                                                              \
    KERNEL(group_norm_forward_##NAME,                                                                              \
           (const T *x, const float *moments, const float *weight, const float *bias, T *y, int pixels,            \
            int channels, int groups, int images, int activated)) {                                                \
        group_norm_forward<T>(x, moments, weight, bias, y, pixels, channels, groups, images, activated);           \
    }                                                                                                              \
    KERNEL(group_norm_sums_##NAME,                                                                                 \
           (const T *x, const T *dy, const float *moments, const float *weight, const float *bias, float *partial, \
            int pixels, int channels, int groups, int activated)) {                                                \
        group_norm_sums<T>(x, dy, moments, weight, bias, partial, pixels, channels, groups, activated);            \
    }                                                                                                              \
    KERNEL(group_norm_backward_##NAME,                                                                             \
           (const T *x, const T *dy, const float *moments, const float *means, const float *weight,                \
            const float *bias, T *dx, int pixels, int channels, int groups, int images, int activated)) {          \
        group_norm_backward<T>(x, dy, moments, means, weight, bias, dx, pixels, channels, groups, images,          \
                               activated);                                                                         \
    }
FOR_FLOATS(GROUP_NORMS)
