/* SPDX-License-Identifier: Apache-2.0
   All that depends on the type of the entries, T; included once for each type. */
#define L (WIDTH / (int)sizeof(T))                /* lanes of a vector */
typedef T NAME(vector) __attribute__((vector_size(WIDTH), aligned(sizeof(T)), may_alias));
#define V NAME(vector)
#define AT(p) (*(const V *)(p))

#include "maps.h"
#include "random.h"
#include "products.h"
#include "triangles.h"

static void NAME(draw)(const instruction *q, const program *p) {
    T first = (T)q->scalar, second = (T)q->second;
    uint32_t stream = (uint32_t)(q - p->code);
    if (!p->counter) NAME(stream_draws)(q->at[0], q->size[3], p->streams, q->kind == NORMAL, first, second);
    else if (q->kind == NORMAL) NAME(counter_normals)(q->at[0], q->size[3], p->seed, p->step, stream, first, second);
    else NAME(counter_uniforms)(q->at[0], q->size[3], p->seed, p->step, stream, first, second - first);
}

static void NAME(execute)(const instruction *q, program *p) {
    switch (q->kind) {
    case MAP: NAME(map)(q); break;
    case SUM: case MAXIMUM: NAME(reduce)(q); break;
    case MOVE: NAME(move)(q); break;
    case CAST: NAME(cast)(q); break;
    case PRODUCT: NAME(product)(q, (NAME(gemm_t) *)blas[!IS_FLOAT][0]); break;
    case SOLVE: NAME(solve)(q, (NAME(trsm_t) *)blas[!IS_FLOAT][1]); break;
    case FACTOR: p->has_failed |= NAME(factorise)(q, (NAME(potrf_t) *)blas[!IS_FLOAT][2]); break;
    default: NAME(draw)(q, p);
    }
}

/* Adam as MXNet computes it, whose options are floats for both types; the rate is corrected for the bias of the averages
   before. */
static void NAME(update)(const adam *rule, float learning_rate) {
    const T rate = learning_rate;
    T *restrict values = rule->values, *restrict first = rule->first, *restrict second = rule->second;
    const T *restrict gradients = rule->gradients;
    const T b1 = (float)rule->beta1, b2 = (float)rule->beta2, epsilon = (float)rule->epsilon, decay = (float)rule->decay;
    IVDEP for (int64_t i = 0; i < rule->size; i++) {
        T gradient = gradients[i] + decay * values[i];
        first[i] = b1 * first[i] + (1 - b1) * gradient;
        second[i] = b2 * second[i] + (1 - b2) * gradient * gradient;
        values[i] -= rate * first[i] / (sqrt(second[i]) + epsilon);
    }
}
#undef L
#undef V
#undef AT
