// Tensor-core products of 16x16 by 16x8, and what brings their factors out of shared memory.
//
// Layouts as in the PTX manual, "Matrix Fragments for mma.m16n8k16": with g = lane / 4 and
// t = lane % 4, accumulator numbers 0, 1 lie in row g, columns 2t and 2t + 1; 2, 3 in row g + 8.
#pragma once

#include "common.cuh"

template <class T> __device__ __forceinline__ unsigned pack(float low, float high) {
    const T two[2] = {Narrow<T>::of(low), Narrow<T>::of(high)};
    unsigned bits;
    memcpy(&bits, two, 4);
    return bits;
}

#ifndef EMULATED

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, bf16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, f16) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};\n"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Four 8x8 matrices of 16-bit numbers; lane i gives the address of row i % 8 of matrix i / 8.
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], const void *row) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], const void *row) {
    const unsigned address = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

#else

struct Factors {
    unsigned a[4], b[2];
};

template <class T> inline float half_of(unsigned bits, int which) {
    T two[2];
    memcpy(two, &bits, 4);
    return wide(two[which]);
}

template <class T> inline void multiply(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1, T) {
    const Factors mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    struct Four {
        float c[4];
    };
    const Four product = emulation::meet(mine, [&](auto of, unsigned lane) {
        Four sum;
        Factors all[32];
        for (unsigned i = 0; i < 32; i++) all[i] = of(i);
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + (i >= 2 ? 8 : 0), column = lane % 4 * 2 + i % 2;
            float s = 0.0f;
            for (int k = 0; k < 16; k++) {
                const int t = k % 8 / 2;
                const unsigned left = all[row % 8 * 4 + t].a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)];
                const unsigned right = all[column * 4 + t].b[k >= 8 ? 1 : 0];
                s += half_of<T>(left, k % 2) * half_of<T>(right, k % 2);
            }
            sum.c[i] = c[i] + s;
        }
        return sum;
    });
    for (int i = 0; i < 4; i++) c[i] = product.c[i];
}

inline void load_emulated(unsigned (&r)[4], const void *row, bool transposed) {
    if (!aligned(row)) emulation::die("a matrix row that is not aligned");
    struct Four {
        unsigned r[4];
    };
    const Four got = emulation::meet(row, [&](auto of, unsigned lane) {
        Four four;
        for (unsigned matrix = 0; matrix < 4; matrix++) {
            uint16_t two[2];
            for (unsigned i = 0; i < 2; i++) {
                const unsigned at_row = transposed ? lane % 4 * 2 + i : lane / 4;
                const unsigned column = transposed ? lane / 4 : lane % 4 * 2 + i;
                two[i] = static_cast<const uint16_t *>(of(matrix * 8 + at_row))[column];
            }
            memcpy(&four.r[matrix], two, 4);
        }
        return four;
    });
    memcpy(r, got.r, sizeof(r));
}

inline void load_matrices(unsigned (&r)[4], const void *row) { load_emulated(r, row, false); }
inline void load_matrices_transposed(unsigned (&r)[4], const void *row) { load_emulated(r, row, true); }

#endif

// The 16x16 left factor whose first number is `first`, rows `pitch` apart.
template <class T> __device__ __forceinline__ void load_left(unsigned (&a)[4], const T *first, int pitch) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices(a, first + (matrix % 2 * 8 + lane % 8) * pitch + matrix / 2 * 8);
}

// Two 16x8 right factors out of 16 rows of their transpose: numbers 0, 1 are the factor of the first
// 8 rows, 2, 3 that of the others.
template <class T> __device__ __forceinline__ void load_right_rows(unsigned (&b)[4], const T *first, int pitch) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices(b, first + (matrix / 2 * 8 + lane % 8) * pitch + matrix % 2 * 8);
}

// Two 16x8 right factors side by side, as they lie.
template <class T> __device__ __forceinline__ void load_right(unsigned (&b)[4], const T *first, int pitch) {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    load_matrices_transposed(b, first + (matrix % 2 * 8 + lane % 8) * pitch + matrix / 2 * 8);
}
