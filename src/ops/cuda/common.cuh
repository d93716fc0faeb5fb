// What all kernels share: number types, packed memory accesses, sums within a block.
//
// The same sources are compiled by nvcc for GPUs and by a C++ compiler for tests, where
// emulation/device.h stands in for the language extensions.
#pragma once

#ifdef EMULATED
#include "emulation/device.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define KERNEL(NAME, PARAMETERS) extern "C" __global__ void NAME PARAMETERS
#define KERNEL_OF(THREADS, NAME, PARAMETERS) \
    extern "C" __global__ void __launch_bounds__(THREADS) NAME PARAMETERS
#define DYNAMIC_SHARED(NAME) extern __shared__ __align__(16) unsigned char NAME[]
#endif

typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float wide(float x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float wide(f16 x) { return __half2float(x); }

// The nearest number of type T.
template <class T> struct Narrow;
template <> struct Narrow<float> {
    static __device__ __forceinline__ float of(float x) { return x; }
};
template <> struct Narrow<bf16> {
    static __device__ __forceinline__ bf16 of(float x) { return __float2bfloat16_rn(x); }
};
template <> struct Narrow<f16> {
    static __device__ __forceinline__ f16 of(float x) { return __float2half_rn(x); }
};

// Numbers that are read or written at once.
template <class T> struct alignas(16) Pack {
    static constexpr int COUNT = 16 / sizeof(T);
    T numbers[COUNT];
};

__device__ __forceinline__ bool aligned(const void *address) {
    return (reinterpret_cast<unsigned long long>(address) & 15) == 0;
}

__device__ __forceinline__ long long thread_number() {
    return (long long)blockIdx.x * blockDim.x + threadIdx.x;
}

__device__ __forceinline__ long long thread_count() {
    return (long long)gridDim.x * blockDim.x;
}

// y = f(x), number by number: `f(const float (&x)[INPUTS], float (&y)[OUTPUTS])`.
template <class T, int INPUTS, int OUTPUTS, class F>
__device__ __forceinline__ void map(const T *const (&x)[INPUTS], T *const (&y)[OUTPUTS], long long count, F f) {
    bool packed = true;
    for (int i = 0; i < INPUTS; i++) packed = packed && aligned(x[i]);
    for (int i = 0; i < OUTPUTS; i++) packed = packed && aligned(y[i]);
    const int PER = Pack<T>::COUNT;
    const long long packs = packed ? count / PER : 0;
    for (long long pack = thread_number(); pack < packs; pack += thread_count()) {
        Pack<T> in[INPUTS], out[OUTPUTS];
#pragma unroll
        for (int i = 0; i < INPUTS; i++) in[i] = reinterpret_cast<const Pack<T> *>(x[i])[pack];
#pragma unroll
        for (int j = 0; j < PER; j++) {
            float from[INPUTS], to[OUTPUTS];
#pragma unroll
            for (int i = 0; i < INPUTS; i++) from[i] = wide(in[i].numbers[j]);
            f(from, to);
#pragma unroll
            for (int i = 0; i < OUTPUTS; i++) out[i].numbers[j] = Narrow<T>::of(to[i]);
        }
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) reinterpret_cast<Pack<T> *>(y[i])[pack] = out[i];
    }
    for (long long at = packs * PER + thread_number(); at < count; at += thread_count()) {
        float from[INPUTS], to[OUTPUTS];
#pragma unroll
        for (int i = 0; i < INPUTS; i++) from[i] = wide(x[i][at]);
        f(from, to);
#pragma unroll
        for (int i = 0; i < OUTPUTS; i++) y[i][at] = Narrow<T>::of(to[i]);
    }
}

__device__ __forceinline__ float warp_sum(float x) {
    for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

__device__ __forceinline__ float warp_max(float x) {
    for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

// The sum over the threads of a row of the block (equal threadIdx.y; blockDim.x a multiple of 32),
// for all of them. The order of the additions depends on nothing but the block's shape.
__device__ __forceinline__ float row_sum(float x) {
    __shared__ float sums[32];
    const int warps = blockDim.x / 32;
    x = warp_sum(x);
    if (warps == 1) return x;
    const int first = threadIdx.y * warps;
    __syncthreads();
    if (threadIdx.x % 32 == 0) sums[first + threadIdx.x / 32] = x;
    __syncthreads();
    x = sums[first];
    for (int i = 1; i < warps; i++) x += sums[first + i];
    return x;
}

// As row_sum, the largest.
__device__ __forceinline__ float row_max(float x) {
    __shared__ float most[32];
    const int warps = blockDim.x / 32;
    x = warp_max(x);
    if (warps == 1) return x;
    const int first = threadIdx.y * warps;
    __syncthreads();
    if (threadIdx.x % 32 == 0) most[first + threadIdx.x / 32] = x;
    __syncthreads();
    x = most[first];
    for (int i = 1; i < warps; i++) x = fmaxf(x, most[first + i]);
    return x;
}

// The sum over the block's threads (at most 256, a power of two), for the first of them. The order
// of the additions depends on nothing but the block's size.
__device__ __forceinline__ double block_sum(double x) {
    __shared__ double sums[256];
    sums[threadIdx.x] = x;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < (unsigned)half) sums[threadIdx.x] += sums[threadIdx.x + half];
    }
    return sums[0];
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// A kernel for each of the three float types: body(T).
#define FOR_FLOATS(BODY) BODY(float, f32) BODY(bf16, bf16) BODY(f16, f16)
