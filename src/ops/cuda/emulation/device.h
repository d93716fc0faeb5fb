// A GPU for tests: runs the kernels' own sources on the host, a block after another, a thread of a
// block as a fiber. It has what these kernels use of CUDA and no more.
//
// Threads run one at a time, from barrier to barrier, in an order that the launch chooses: a kernel
// that gives other bits in another order lacks a barrier.
#pragma once

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include <ucontext.h>

using std::isfinite;

#define __device__
#define __forceinline__ inline
// One block runs at a time on a thread of the host.
#define __shared__ static thread_local

struct Index {
    unsigned x, y, z;
};

struct Launch {
    Index grid, block;
    unsigned shared_bytes;
    // Bit 0: the last thread first; bit 1: the last block first.
    unsigned order;
};

namespace emulation {

enum class State { Ready, AtBlock, AtWarp, Done };

struct Fiber {
    jmp_buf here;
    ucontext_t start;
    bool started = false;
    State state = State::Ready;
    Index index;
    unsigned number;
    // What the other threads of the warp are shown.
    unsigned char shown[64];
    std::unique_ptr<char[]> stack;
};

struct Machine {
    jmp_buf scheduler;
    std::vector<std::unique_ptr<Fiber>> fibers;
    Fiber *current = nullptr;
    Launch launch;
    Index block;
    void (*body)(void *);
    void *argument;
    std::vector<unsigned char> shared;
};

inline thread_local Machine machine;

constexpr size_t STACK = 256 * 1024;

inline void leave(State state) {
    Fiber *self = machine.current;
    self->state = state;
    if (_setjmp(self->here) == 0) _longjmp(machine.scheduler, 1);
}

inline void live() {
    for (;;) {
        machine.body(machine.argument);
        leave(State::Done);
    }
}

inline void resume(Fiber *fiber) {
    machine.current = fiber;
    if (_setjmp(machine.scheduler) != 0) return;
    if (fiber->started) _longjmp(fiber->here, 1);
    fiber->started = true;
    setcontext(&fiber->start);
}

[[noreturn]] inline void die(const char *what) {
    fprintf(stderr, "emulated kernel: %s\n", what);
    abort();
}

// Runs one block to its end.
inline void run_block(unsigned count) {
    auto &fibers = machine.fibers;
    while (fibers.size() < count) {
        auto fiber = std::make_unique<Fiber>();
        fiber->stack = std::make_unique<char[]>(STACK);
        getcontext(&fiber->start);
        fiber->start.uc_stack.ss_sp = fiber->stack.get();
        fiber->start.uc_stack.ss_size = STACK;
        fiber->start.uc_link = nullptr;
        makecontext(&fiber->start, live, 0);
        fibers.push_back(std::move(fiber));
    }
    for (unsigned i = 0; i < count; i++) {
        const Index &size = machine.launch.block;
        fibers[i]->state = State::Ready;
        fibers[i]->number = i;
        fibers[i]->index = {i % size.x, i / size.x % size.y, i / (size.x * size.y)};
    }
    for (;;) {
        for (unsigned i = 0; i < count; i++) {
            Fiber *fiber = fibers[machine.launch.order & 1 ? count - 1 - i : i].get();
            if (fiber->state == State::Ready) resume(fiber);
        }
        unsigned done = 0, at_block = 0;
        bool released = false;
        for (unsigned warp = 0; warp < count; warp += 32) {
            unsigned waiting = 0, ended = 0;
            for (unsigned i = warp; i < warp + 32 && i < count; i++) {
                waiting += fibers[i]->state == State::AtWarp;
                ended += fibers[i]->state == State::Done;
                at_block += fibers[i]->state == State::AtBlock;
            }
            done += ended;
            if (waiting > 0 && waiting != 32) die("a warp's threads part before all of them must meet");
            for (unsigned i = warp; waiting > 0 && i < warp + 32; i++) fibers[i]->state = State::Ready;
            released |= waiting > 0;
        }
        if (done == count) return;
        if (released) continue;
        if (at_block + done != count) die("threads wait for what never comes");
        if (done > 0) die("some threads end before a barrier that others wait at");
        for (unsigned i = 0; i < count; i++) fibers[i]->state = State::Ready;
    }
}

template <class Body> void run(const Launch &launch, Body body) {
    machine.launch = launch;
    machine.body = [](void *body) { (*static_cast<Body *>(body))(); };
    machine.argument = &body;
    const unsigned count = launch.block.x * launch.block.y * launch.block.z;
    const unsigned blocks = launch.grid.x * launch.grid.y * launch.grid.z;
    const unsigned most = launch.grid.y > launch.grid.z ? launch.grid.y : launch.grid.z;
    if (count == 0 || count > 1024 || blocks == 0 || most > 65535) die("a launch beyond a GPU's limits");
    for (unsigned i = 0; i < blocks; i++) {
        const unsigned at = launch.order & 2 ? blocks - 1 - i : i;
        machine.block = {at % launch.grid.x, at / launch.grid.x % launch.grid.y,
                         at / (launch.grid.x * launch.grid.y)};
        // What a block finds in shared memory is nobody's number; bytes behind it are watched.
        machine.shared.assign(launch.shared_bytes + 64, 0xff);
        run_block(count);
        for (unsigned b = 0; b < 48; b++) {
            if (machine.shared[machine.shared.size() - 1 - b] != 0xff) die("a write behind shared memory");
        }
    }
}

inline unsigned char *shared() {
    const auto start = reinterpret_cast<uintptr_t>(machine.shared.data());
    return reinterpret_cast<unsigned char *>((start + 15) / 16 * 16);
}

template <class... A, size_t... I>
void call(void (*kernel)(A...), void **arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::decay_t<A> *>(arguments[I])...);
}

template <class... A> void run_kernel(void (*kernel)(A...), const Launch &launch, void **arguments) {
    run(launch, [&] { call(kernel, arguments, std::index_sequence_for<A...>{}); });
}

// Shows `mine` to the warp and lets `look` see what each of its threads shows.
template <class T, class Look> auto meet(const T &mine, Look look) {
    static_assert(sizeof(T) <= sizeof(Fiber::shown), "too much to show");
    Fiber *self = machine.current;
    memcpy(self->shown, &mine, sizeof(T));
    leave(State::AtWarp);
    const unsigned warp = self->number / 32 * 32;
    auto of = [warp](unsigned lane) {
        T theirs;
        memcpy(&theirs, machine.fibers[warp + lane]->shown, sizeof(T));
        return theirs;
    };
    auto seen = look(of, self->number % 32);
    leave(State::AtWarp);
    return seen;
}

} // namespace emulation

#define threadIdx (emulation::machine.current->index)
#define blockIdx (emulation::machine.block)
#define blockDim (emulation::machine.launch.block)
#define gridDim (emulation::machine.launch.grid)

struct float2 {
    float x, y;
};
struct int2 {
    int x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline float2 make_float2(float x, float y) { return {x, y}; }

inline void __syncthreads() { emulation::leave(emulation::State::AtBlock); }
inline void __syncwarp() { emulation::leave(emulation::State::AtWarp); }

template <class T> T __shfl_xor_sync(unsigned, T x, int mask) {
    return emulation::meet(x, [mask](auto of, unsigned lane) { return of(lane ^ mask); });
}

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
template <class T> T min(T a, T b) { return b < a ? b : a; }
template <class T> T max(T a, T b) { return a < b ? b : a; }

struct __nv_bfloat16 {
    uint16_t bits;
};
struct __half {
    uint16_t bits;
};

inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, 4);
    return bits;
}

inline float __bfloat162float(__nv_bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    unsigned bits = __float_as_uint(x);
    if (x != x) return {uint16_t((bits >> 16) | 0x40)};
    return {uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
}

inline float __half2float(__half x) {
    const unsigned sign = unsigned(x.bits & 0x8000) << 16, exponent = (x.bits >> 10) & 31, fraction = x.bits & 1023;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) return __uint_as_float(sign | __float_as_uint(fraction * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
}
inline __half __float2half_rn(float x) {
    const unsigned bits = __float_as_uint(x), sign = (bits >> 16) & 0x8000;
    const float size = std::fabs(x);
    if (x != x) return {uint16_t(sign | 0x7e00)};
    if (size >= 65520.0f) return {uint16_t(sign | 0x7c00)};
    // Below the normal numbers the steps are 2^-24; the host rounds to even, as the GPU does.
    if (size < 0x1p-14f) return {uint16_t(sign | unsigned(std::nearbyint(size * 0x1p24f)))};
    const unsigned rest = bits & 0x7fffffff;
    return {uint16_t(sign | ((rest - (112u << 23) + 0xfff + ((rest >> 13) & 1)) >> 13))};
}

#define KERNEL(NAME, PARAMETERS)                                                     \
    static void NAME PARAMETERS;                                                     \
    extern "C" void emulated_##NAME(const Launch *launch, void **arguments) {        \
        emulation::run_kernel(NAME, *launch, arguments);                             \
    }                                                                                \
    static void NAME PARAMETERS
#define KERNEL_OF(THREADS, NAME, PARAMETERS) KERNEL(NAME, PARAMETERS)
#define DYNAMIC_SHARED(NAME) unsigned char *NAME = emulation::shared()
