/* SPDX-License-Identifier: Apache-2.0 */
#ifdef __x86_64__
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif
#define INSTRUCTION_SET avx2
#define WIDTH 32
#include "engine.inc"
#ifdef __clang__
#pragma clang attribute pop
#endif
#endif
typedef int not_empty;
