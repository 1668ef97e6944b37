/* SPDX-License-Identifier: Apache-2.0
   The engine for any processor of an architecture, and the choice of a better one where the program runs. */
#define INSTRUCTION_SET plain
#define WIDTH 16
#include "engine.inc"

#ifdef __x86_64__
#define VARIANT(set) \
    void evaluate_##set(program *); \
    int64_t train_##set(program *, const adam *, const double *, double *, int64_t);
VARIANT(avx2)
VARIANT(avx512)
#endif

void *blas[2][3];                                 /* gemm, trsm, potrf; for float and for double */
static void (*evaluate)(program *) = evaluate_plain;
static int64_t (*train)(program *, const adam *, const double *, double *, int64_t) = train_plain;

/* Take the routines of linear algebra, and the best set of instructions: `limit` 0 for the plain one, 1 for AVX2 at most.
   Returns which. */
int mvn_prepare(void *const *routines, int limit) {
    memcpy(blas, routines, sizeof(blas));
#ifdef __x86_64__
    __builtin_cpu_init();
    if (limit > 1 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
        evaluate = evaluate_avx512;
        train = train_avx512;
        return 2;
    }
    if (limit > 0 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        evaluate = evaluate_avx2;
        train = train_avx2;
        return 1;
    }
#endif
    (void)limit;
    return 0;
}

const int mvn_sizes[] = {sizeof(instruction), sizeof(program), sizeof(adam)};
const char mvn_digest[] = MVN_DIGEST;             /* of the sources, from setup.py */
void mvn_evaluate(program *p) { evaluate(p); }
int64_t mvn_train(program *p, const adam *rule, const double *rates, double *losses, int64_t steps) { return train(p, rule, rates, losses, steps); }
