// The losses: cross-entropy of logits, squared errors of pictures.

#include "common.cuh"

// One block per token. `logits` [tokens, vocabulary] in f32; losses[token] gets -log p(target). With
// `gradient`, the row becomes the logits' gradients in T, from the row's first byte on: each tile is
// read by all threads before any of them writes, and no number is longer than a logit.
template <class T>
__device__ void cross_entropy(float *logits, const unsigned *targets, float *losses, int vocabulary, int gradient) {
    float *row = logits + (long long)blockIdx.x * vocabulary;
    const unsigned target = targets[blockIdx.x];
    const float of_target = row[target];
    float most = -INFINITY;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) most = fmaxf(most, row[i]);
    most = row_max(most);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < vocabulary; i += blockDim.x) sum += expf(row[i] - most);
    sum = row_sum(sum);
    if (threadIdx.x == 0) losses[blockIdx.x] = logf(sum) + (most - of_target);
    if (!gradient) return;
    const float inverse = 1.0f / sum;
    T *out = reinterpret_cast<T *>(row);
    for (int first = 0; first < vocabulary; first += blockDim.x) {
        const int i = first + threadIdx.x;
        float p = 0.0f;
        if (i < vocabulary) p = expf(row[i] - most) * inverse;
        __syncthreads();
        if (i < vocabulary) out[i] = Narrow<T>::of(p - (i == (int)target ? 1.0f : 0.0f));
        __syncthreads();
    }
}

#define CROSS_ENTROPY(T, NAME)                                                                                     \
    KERNEL(cross_entropy_##NAME,                                                                                   \
           (float *logits, const unsigned *targets, float *losses, int vocabulary, int gradient)) {                \
        cross_entropy<T>(logits, targets, losses, vocabulary, gradient);                                           \
    }
FOR_FLOATS(CROSS_ENTROPY)

// One block of 256 threads: total[0] = the sum of the losses, in f64.
template <class T> __device__ __forceinline__ void total(const T *losses, double *sum, long long count) {
    double mine = 0.0;
    for (long long i = threadIdx.x; i < count; i += blockDim.x) mine += (double)losses[i];
    mine = block_sum(mine);
    if (threadIdx.x == 0) sum[0] = mine;
}

KERNEL(total_f32, (const float *losses, double *sum, long long count)) { total<float>(losses, sum, count); }
KERNEL(total_f64, (const double *losses, double *sum, long long count)) { total<double>(losses, sum, count); }

// One block of 256 threads per picture of `count` numbers: losses[picture] = scale * the sum of its
// squared errors, and what it is the slope of. In f64, as on the host.
KERNEL(squared_errors, (const float *predicted, const float *target, const double *scales, float *gradient,
                        double *losses, long long count)) {
    const double scale = scales[blockIdx.x];
    const long long first = blockIdx.x * count;
    double squares = 0.0;
    for (long long at = first + threadIdx.x; at < first + count; at += blockDim.x) {
        const double error = (double)predicted[at] - (double)target[at];
        squares += error * error;
        gradient[at] = (float)(2.0 * scale * error);
    }
    squares = block_sum(squares);
    if (threadIdx.x == 0) losses[blockIdx.x] = scale * squares;
}
