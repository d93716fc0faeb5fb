// All kernels as functions of the host: `emulated_NAME(const Launch *, void **arguments)`.

#define EMULATED

#include "../attention_plain.cu"
#include "../dequantize.cu"
#include "../images.cu"
#include "../loss.cu"
#include "../norm.cu"
#include "../optimizer.cu"
#include "../pointwise.cu"

#define NUMBER bf16
#define NAME bf16
#define HEAD 32
#include "../attention.cu"
#undef HEAD
#define HEAD 48
#include "../attention.cu"
#undef HEAD
#define HEAD 64
#include "../attention.cu"
#undef HEAD
#define HEAD 80
#include "../attention.cu"
#undef HEAD
#define HEAD 96
#include "../attention.cu"
#undef HEAD
#define HEAD 128
#include "../attention.cu"
#undef HEAD
#define HEAD 160
#include "../attention.cu"
#undef HEAD
#undef NUMBER
#undef NAME

#define NUMBER f16
#define NAME f16
#define HEAD 32
#include "../attention.cu"
#undef HEAD
#define HEAD 48
#include "../attention.cu"
#undef HEAD
#define HEAD 64
#include "../attention.cu"
#undef HEAD
#define HEAD 80
#include "../attention.cu"
#undef HEAD
#define HEAD 96
#include "../attention.cu"
#undef HEAD
#define HEAD 128
#include "../attention.cu"
#undef HEAD
#define HEAD 160
#include "../attention.cu"
#undef HEAD
#undef NUMBER
#undef NAME
