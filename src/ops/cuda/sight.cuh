// Which keys of its span a query looks at.
#pragma once

struct Sight {
    int keys, offset, window, causal;
    __device__ __forceinline__ int end(int query) const { return causal ? min(keys, offset + query + 1) : keys; }
    __device__ __forceinline__ int start(int query) const {
        return window > 0 ? max(0, offset + query + 1 - window) : 0;
    }
    __device__ __forceinline__ bool sees(int query, int key) const {
        return key < end(query) && key >= start(query);
    }
};
