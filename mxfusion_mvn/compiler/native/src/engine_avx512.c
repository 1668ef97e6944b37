/* SPDX-License-Identifier: Apache-2.0 */
#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define INSTRUCTION_SET avx512
#define WIDTH 64
#include "engine.inc"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
typedef int not_empty;
