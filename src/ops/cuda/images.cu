// Images as rows of channels: [images * height * width, channels].

#include "common.cuh"

// A square kernel's walk over a grid of pixels.
struct Walk {
    int height, width, out_height, out_width, channels, size, stride, before;
};

// The patches of results `first` to `first + count`, each [size, size, channels]; zeros outside.
template <class T>
__device__ void gather_patches(const T *x, T *patches, long long first, long long count, Walk w) {
    const int patch = w.size * w.size * w.channels;
    for (long long at = thread_number(); at < count * patch; at += thread_count()) {
        const long long row = first + at / patch;
        const int within = at % patch, channel = within % w.channels, tap = within / w.channels;
        const long long line = row / w.out_width, image = line / w.out_height;
        const int y = (int)(line % w.out_height) * w.stride + tap / w.size - w.before;
        const int column = (int)(row % w.out_width) * w.stride + tap % w.size - w.before;
        const bool inside = y >= 0 && y < w.height && column >= 0 && column < w.width;
        patches[at] = inside ? x[((image * w.height + y) * w.width + column) * w.channels + channel]
                             : Narrow<T>::of(0.0f);
    }
}

// The gradient of whole images' pixels, given that of all their patches: each pixel takes what the
// patches that it lies in hold for it, tap after tap.
template <class T> __device__ void scatter_patches(const T *patches, T *dx, long long images, Walk w) {
    const long long count = images * w.height * w.width * w.channels;
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const int channel = at % w.channels;
        const long long pixel = at / w.channels, line = pixel / w.width, image = line / w.height;
        const int y = line % w.height, column = pixel % w.width;
        float sum = 0.0f;
        for (int tap = 0; tap < w.size * w.size; tap++) {
            const int from_y = y + w.before - tap / w.size, from_x = column + w.before - tap % w.size;
            if (from_y < 0 || from_x < 0 || from_y % w.stride != 0 || from_x % w.stride != 0) continue;
            const int out_y = from_y / w.stride, out_x = from_x / w.stride;
            if (out_y >= w.out_height || out_x >= w.out_width) continue;
            const long long row = (image * w.out_height + out_y) * w.out_width + out_x;
            sum += wide(patches[(row * w.size * w.size + tap) * w.channels + channel]);
        }
        dx[at] = Narrow<T>::of(sum);
    }
}

// Every pixel as a square of four; `width` is that of x, lines are counted over all images.
template <class T> __device__ void upsample_forward(const T *x, T *y, long long rows, int width, int channels) {
    for (long long at = thread_number(); at < 4 * rows * channels; at += thread_count()) {
        const long long row = at / channels, line = row / (2 * width), column = row % (2 * width);
        y[at] = x[(line / 2 * width + column / 2) * channels + at % channels];
    }
}

template <class T> __device__ void upsample_backward(const T *dy, T *dx, long long rows, int width, int channels) {
    for (long long at = thread_number(); at < rows * channels; at += thread_count()) {
        const long long row = at / channels, line = row / width, column = row % width;
        const T *first = dy + (line * 2 * 2 * width + column * 2) * channels + at % channels;
        const T *second = first + 2LL * width * channels;
        dx[at] = Narrow<T>::of(wide(first[0]) + wide(first[channels]) + wide(second[0]) + wide(second[channels]));
    }
}

// y = x + the image's row of `added`.
template <class T>
__device__ void add_to_images(const T *x, const T *added, T *y, long long rows, int pixels, int channels) {
    for (long long at = thread_number(); at < rows * channels; at += thread_count()) {
        y[at] = Narrow<T>::of(wide(x[at]) + wide(added[at / channels / pixels * channels + at % channels]));
    }
}

// The sum of each image's rows: a block takes 32 channels of an image, its eight warps take turns.
template <class T> __device__ void sum_of_images(const T *dy, T *sums, int pixels, int channels) {
    __shared__ float parts[8][32];
    const int channel = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (channel < channels) {
        dy += (long long)blockIdx.y * pixels * channels + channel;
        for (int pixel = threadIdx.y; pixel < pixels; pixel += 8) sum += wide(dy[(long long)pixel * channels]);
    }
    parts[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y == 0 && channel < channels) {
        for (int i = 1; i < 8; i++) sum += parts[i][threadIdx.x];
        sums[(long long)blockIdx.y * channels + channel] = Narrow<T>::of(sum);
    }
}

#define IMAGES(T, NAME)                                                                                            \
    KERNEL(gather_patches_##NAME,                                                                                  \
           (const T *x, T *patches, long long first, long long count, int height, int width, int out_height,       \
            int out_width, int channels, int size, int stride, int before)) {                                      \
        gather_patches<T>(x, patches, first, count,                                                                \
                          {height, width, out_height, out_width, channels, size, stride, before});                 \
    }                                                                                                              \
    KERNEL(scatter_patches_##NAME,                                                                                 \
           (const T *patches, T *dx, long long images, int height, int width, int out_height, int out_width,       \
            int channels, int size, int stride, int before)) {                                                     \
        scatter_patches<T>(patches, dx, images,                                                                    \
                           {height, width, out_height, out_width, channels, size, stride, before});                \
    }                                                                                                              \
    KERNEL(upsample_forward_##NAME, (const T *x, T *y, long long rows, int width, int channels)) {                 \
        upsample_forward<T>(x, y, rows, width, channels);                                                          \
    }                                                                                                              \
    KERNEL(upsample_backward_##NAME, (const T *dy, T *dx, long long rows, int width, int channels)) {              \
        upsample_backward<T>(dy, dx, rows, width, channels);                                                       \
    }                                                                                                              \
    KERNEL(add_to_images_##NAME,                                                                                   \
           (const T *x, const T *added, T *y, long long rows, int pixels, int channels)) {                         \
        add_to_images<T>(x, added, y, rows, pixels, channels);                                                     \
    }                                                                                                              \
    KERNEL(sum_of_images_##NAME, (const T *dy, T *sums, int pixels, int channels)) {                               \
        sum_of_images<T>(dy, sums, pixels, channels);                                                              \
    }
FOR_FLOATS(IMAGES)
