// What an optimizer does with flat f32 buffers: sums of gradients, their norm, AdamW.
//
// Nothing here is read by the host in between: whether an update is made at all is decided on the
// device. Every operation of AdamW is rounded by itself, so that the numbers are those of the host.

#include "common.cuh"

KERNEL(clear, (float *x, long long count)) {
    for (long long at = thread_number(); at < count; at += thread_count()) x[at] = 0.0f;
}

KERNEL(accumulate, (float *sum, const float *addend, long long count)) {
    for (long long at = thread_number(); at < count; at += thread_count()) sum[at] = __fadd_rn(sum[at], addend[at]);
}

// x *= factor, and partial[block] = the sum of the squares of the block's numbers after that, in f64.
KERNEL(scale_and_square, (float *x, double *partial, long long count, float factor)) {
    double sum = 0.0;
    for (long long at = thread_number(); at < count; at += thread_count()) {
        const float scaled = __fmul_rn(x[at], factor);
        x[at] = scaled;
        sum += (double)scaled * scaled;
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// One block. outcome = {loss / weight, the norm, what the gradients are to be multiplied by}; the last
// is NaN where loss or norm are not finite: no update is made then. As torch's `clip_grad_norm_`.
KERNEL(conclude, (const double *partial, int blocks, const double *loss, double *outcome, double weight,
                  double max_norm)) {
    double sum = 0.0;
    for (int i = threadIdx.x; i < blocks; i += blockDim.x) sum += partial[i];
    sum = block_sum(sum);
    if (threadIdx.x != 0) return;
    const double norm = sqrt(sum), mean = loss[0] / weight;
    const double clip = max_norm / (norm + 1e-6);
    // Not finite: a difference with itself is NaN, which spoils the sum.
    const double spoiled = (mean - mean) + (norm - norm);
    outcome[0] = mean;
    outcome[1] = norm;
    outcome[2] = (max_norm > 0.0 && clip < 1.0 ? clip : 1.0) + spoiled;
}

// AdamW with decoupled weight decay, in the order of torch's `AdamW`; `outcome` as `conclude` left it.
KERNEL(adamw, (float *x, const float *gradient, float *m, float *v, const double *outcome, long long count,
               float decay, float step_size, float correction, float one_minus_beta1, float beta2,
               float one_minus_beta2, float epsilon)) {
    const float coefficient = (float)outcome[2];
    if (coefficient != coefficient) return;
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
