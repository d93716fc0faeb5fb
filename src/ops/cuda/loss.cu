// Cross-entropy of logits, and the optimizer.

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

// AdamW with decoupled weight decay over flat buffers, in the order of torch's `AdamW`. Every
// operation is rounded by itself, so that the numbers are those of the host.
KERNEL(adamw, (float *x, const float *gradient, float *m, float *v, long long count, float coefficient, float decay,
               float step_size, float correction, float one_minus_beta1, float beta2, float one_minus_beta2,
               float epsilon)) {
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const float g = __fmul_rn(gradient[at], coefficient);
        const float first = __fadd_rn(m[at], __fmul_rn(__fsub_rn(g, m[at]), one_minus_beta1));
        const float second = __fadd_rn(__fmul_rn(v[at], beta2), __fmul_rn(__fmul_rn(g, g), one_minus_beta2));
        const float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(second), correction), epsilon);
        const float before = __fmul_rn(x[at], decay);
        x[at] = __fsub_rn(before, __fmul_rn(step_size, __fdiv_rn(first, denominator)));
        m[at] = first;
        v[at] = second;
    }
}

// sum += factor * addend, rounded as on the host.
KERNEL(accumulate, (float *sum, const float *addend, long long count)) {
    for (long long at = thread_number(); at < count; at += thread_count()) sum[at] = __fadd_rn(sum[at], addend[at]);
}

KERNEL(scale, (float *x, long long count, float factor)) {
    for (long long at = thread_number(); at < count; at += thread_count()) x[at] = __fmul_rn(x[at], factor);
}

// partial[block] = the sum of the block's squares, in f64 and in a fixed order.
KERNEL(sum_of_squares, (const float *x, double *partial, long long count)) {
    __shared__ double sums[256];
    double sum = 0.0;
    for (long long at = thread_number(); at < count; at += thread_count()) sum += (double)x[at] * x[at];
    sums[threadIdx.x] = sum;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < (unsigned)half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    if (threadIdx.x == 0) partial[blockIdx.x] = sums[0];
}
