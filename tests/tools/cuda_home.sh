#!/usr/bin/env bash
# cuda_home.sh [DIR] - assemble a CUDA 13.0 toolkit good enough to COMPILE candle
# 0.11.1 with `--features cuda` on a machine without GPU, driver or CUDA.
# Needs: gcc/g++ 6..15 (Debian 12's gcc 12 is fine), binutils, python3+pip, and
#        cargo (only to read the symbol names out of the cudarc crate).
# Takes: 104 MB of wheels, ~280 MB on disk, ~10-20 s. Idempotent. No apt needed.
# Use:   cargo fetch; bash cuda_home.sh DIR && . DIR/env.sh && cargo build --release --features cuda
set -euo pipefail
ROOT=${1:-$HOME/.cache/cuda-home}
PY=${PYTHON:-python3}
mkdir -p "$ROOT"; ROOT=$(cd "$ROOT" && pwd)

# 1. The compiler, out of NVIDIA's PyPI wheels (CUDA 13.0 Update 2). --no-deps: the
#    wheels' own deps (cublas, ...: 0.5 GB) are not needed to compile or to link.
#    nvcc:    bin/{nvcc,cudafe++,fatbinary,ptxas,nvlink,bin2c}         37 MB
#    nvvm:    nvvm/bin/cicc, libdevice.10.bc                           62 MB
#    crt:     include/crt/*          runtime: cuda_fp16.h, mma.h, libcudart_static.a
#    cccl:    include/cccl/{cub,thrust,cuda} (cuda::std, used by own kernels)
if [ ! -x "$ROOT/py/nvidia/cu13/bin/nvcc" ]; then
  "$PY" -m pip install -q --no-deps --only-binary=:all: --no-compile \
    --disable-pip-version-check --root-user-action=ignore --target "$ROOT/py" \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85
fi
CUDA_HOME=$ROOT/py/nvidia/cu13
ln -sfn lib "$CUDA_HOME/lib64"        # nvcc.profile and cudaforge look in lib64

# 2. nvcc wrapper. cudaforge 0.1.6 (candle's build helper) gives every nvcc run ONE
#    -gencode=arch=compute_X,code=sm_X:
#    --ptx runs: PTX text, embedded with include_str! and JITed by the driver: left alone.
#    -c runs (candle's libmoe.a: GGUF/MoE kernels; own static kernels): would hold SASS of
#      sm_X only, which runs on no other major version. Here instead: SASS for each of
#      $NVCC_SASS (say "80 90 120"; default none, which spares ptxas: most of the build
#      time) plus PTX of compute_${NVCC_PTX:-80}, which any GPU >= 8.0 JITs at first use.
#    (cudaforge's rebuild check does not see these two variables: cargo clean -p candle-kernels)
mkdir -p "$CUDA_HOME/wrap"
cat > "$CUDA_HOME/wrap/nvcc" <<'W'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
case " $* " in
  *" -c "*)
    for a do shift; case $a in -gencode=*) ;; *) set -- "$@" "$a" ;; esac; done
    for s in ${NVCC_SASS-}; do set -- "-gencode=arch=compute_$s,code=sm_$s" "$@"; done
    set -- "-gencode=arch=compute_${NVCC_PTX:-80},code=compute_${NVCC_PTX:-80}" "$@" ;;
esac
exec "$here/../bin/nvcc" "$@"
W
chmod +x "$CUDA_HOME/wrap/nvcc"

# 3. Link libraries. candle-core 0.11.1 turns on cudarc's `dynamic-linking`, so rustc
#    passes -lcuda -lnvrtc -lcurand -lcublas -lcublasLt, and candle-kernels -lcudart.
#    With the real .so files the program would not even START without a driver and
#    cuBLAS. So give the linker only static archives of trampolines: each function
#    dlopen()s the real library at its first call; if that fails it returns an error
#    code, so Device::new_cuda() is an Err, and the program goes on on the CPU.
#    (ld takes libX.a for -lX when the directory has no libX.so.) cudart is linked
#    statically: it dlopen()s libcuda.so.1 by itself, at first use.
SYS=$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/cudarc-0.19.*/src 2>/dev/null | sort -V | tail -1)
[ -n "$SYS" ] || { echo "run 'cargo fetch' in the project first (cudarc's sources are read)" >&2; exit 1; }
rm -f "$CUDA_HOME"/lib/lib{cuda,nvrtc,curand,cublas,cublasLt,cudart}.{a,so}
ln -s libcudart_static.a "$CUDA_HOME/lib/libcudart.a"
# so that no libstdc++.so.6 is needed either:
ln -sfn "$(${CXX:-g++} -print-file-name=libstdc++.a)" "$CUDA_HOME/lib/libstdc++.a"
T=$ROOT/tramp; mkdir -p "$T"
cat > "$T/gen.py" <<'P'
import re, sys
sysdir, out = sys.argv[1:3]
# library: (folder in cudarc, soname, what it needs from its own folder, status when it is missing)
LIBS = {
 "cuda":     ("driver",   "libcuda.so.1",      "", 34),                         # CUDA_ERROR_STUB_LIBRARY
 "nvrtc":    ("nvrtc",    "libnvrtc.so.13",    "libnvrtc-builtins.so.13.0", 11),# NVRTC_ERROR_INTERNAL_ERROR
 "curand":   ("curand",   "libcurand.so.10",   "", 203),                        # CURAND_STATUS_INITIALIZATION_FAILED
 "cublas":   ("cublas",   "libcublas.so.13",   "libcublasLt.so.13", 1),         # CUBLAS_STATUS_NOT_INITIALIZED
 "cublasLt": ("cublaslt", "libcublasLt.so.13", "", 1),
}
for lib, (folder, soname, need, err) in LIBS.items():
    src = open(f"{sysdir}/{folder}/sys/mod.rs").read()
    syms = sorted(set(re.findall(r'load::<_F>\("(\w+)"\)', src)))
    assert len(syms) > 5, lib
    with open(f"{out}/{lib}.S", "w") as f:
        for s in syms:
            f.write(f'''
    .section .rodata.n_{s},"a",@progbits
n_{s}: .asciz "{s}"
    .section .bss.p_{s},"aw",@nobits
    .balign 8
p_{s}: .skip 8
    .section .text.{s},"ax",@progbits
    .globl {s}
    .type {s},@function
{s}:
    endbr64
    movq p_{s}(%rip), %r11
    testq %r11, %r11
    je 1f
    jmp *%r11
1:  leaq n_{s}(%rip), %r10
    leaq p_{s}(%rip), %r11
    jmp lazy_slow_{lib}
    .size {s}, .-{s}
''')
        f.write(f'''
    .section .text.lazy_slow_{lib},"ax",@progbits
lazy_slow_{lib}:            /* r10 = name, r11 = slot; keep every argument register */
    pushq %rbp
    movq %rsp, %rbp
    pushq %rdi
    pushq %rsi
    pushq %rdx
    pushq %rcx
    pushq %r8
    pushq %r9
    pushq %rax
    pushq %r11
    subq $128, %rsp
''' + "".join(f"    movups %xmm{i}, {16*i}(%rsp)\n" for i in range(8)) + f'''
    movq %r10, %rdi
    andq $-16, %rsp
    call lazy_resolve_{lib}
    leaq -192(%rbp), %rsp
''' + "".join(f"    movups {16*i}(%rsp), %xmm{i}\n" for i in range(8)) + f'''
    addq $128, %rsp
    popq %r11
    movq %rax, (%r11)
    movq %rax, %r11
    popq %rax
    popq %r9
    popq %r8
    popq %rcx
    popq %rdx
    popq %rsi
    popq %rdi
    popq %rbp
    jmp *%r11
    .section .note.GNU-stack,"",@progbits
''')
    with open(f"{out}/{lib}.c", "w") as f:
        f.write(f'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <glob.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#define SO "{soname}"
#define NEED "{need}"
static long missing(void) {{ return {err}; }}
static void *handle;
/* $CUDA_LIB_DIR, then the loader's own search (LD_LIBRARY_PATH, ldconfig), then usual places */
static const char *const dirs[] = {{ "/usr/local/cuda/lib64", "/usr/local/nvidia/lib64",
 
  "/usr/local/lib/python3*/dist-packages/nvidia/cu13/lib" }};
static void try_dir(const char *dir) {{
  char p[1024]; glob_t g;
  snprintf(p, sizeof p, "%s/%s", dir, NEED);
  if (*NEED && !glob(p, 0, 0, &g)) {{ if (g.gl_pathc) dlopen(g.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL); globfree(&g); }}
  snprintf(p, sizeof p, "%s/%s", dir, SO);
  if (!glob(p, 0, 0, &g)) {{ if (g.gl_pathc) handle = dlopen(g.gl_pathv[0], RTLD_NOW | RTLD_GLOBAL); globfree(&g); }}
}}
static void open_all(void) {{
  const char *d = getenv("CUDA_LIB_DIR"), *v = getenv("CUDA_LAZY_DEBUG");
  if (d) try_dir(d);
  if (!handle) handle = dlopen(SO, RTLD_NOW | RTLD_GLOBAL);
  for (unsigned j = 0; j < sizeof dirs / sizeof *dirs && !handle; j++) try_dir(dirs[j]);
  if (v) fprintf(stderr, "lazy: %s %s\\n", SO, handle ? "loaded" : "NOT FOUND");
}}
void *lazy_resolve_{lib}(const char *sym) {{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, open_all);
  void *f = handle ? dlsym(handle, sym) : 0;
  if (!f && handle) fprintf(stderr, "lazy: %s has no %s\\n", SO, sym);
  return f ? f : (void *)missing;
}}
''')
    print(lib, len(syms), "symbols")
P
"$PY" "$T/gen.py" "$SYS" "$T"
for l in cuda nvrtc curand cublas cublasLt; do
  ${CC:-gcc} -c -fPIC "$T/$l.S" -o "$T/$l.s.o"
  ${CC:-gcc} -c -O1 -fPIC -fvisibility=hidden "$T/$l.c" -o "$T/$l.c.o"
  ar rcs "$CUDA_HOME/lib/lib$l.a" "$T/$l.s.o" "$T/$l.c.o"
done

# 4. The environment for cargo.
cat > "$ROOT/env.sh" <<E
export CUDA_HOME=$CUDA_HOME CUDA_PATH=$CUDA_HOME
export NVCC=$CUDA_HOME/wrap/nvcc                 # cudaforge takes this first
export PATH=$CUDA_HOME/wrap:$CUDA_HOME/bin:\$PATH
export CUDARC_CUDA_VERSION=13000                 # else cudarc asks 'nvcc --version'
export CUDA_COMPUTE_CAP=\${CUDA_COMPUTE_CAP:-80}  # 80: PTX that every GPU >= 8.0 JITs.
                                                 # NOT 90: cudaforge makes sm_90a of it (Hopper only)
export CUDAFORGE_THREADS=\${CUDAFORGE_THREADS:-\$(nproc)}  # else half of the cores
E
"$CUDA_HOME/bin/nvcc" --version | tail -2
du -sh "$ROOT" | cut -f1
