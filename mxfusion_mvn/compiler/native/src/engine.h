/* SPDX-License-Identifier: Apache-2.0
   What a program is: a list of instructions on arrays, which Python writes (engine.py) and the engine runs. */
#ifndef MVN_ENGINE_H
#define MVN_ENGINE_H
#include <stdint.h>

enum kind { MAP, SUM, MAXIMUM, MOVE, CAST, PRODUCT, SOLVE, FACTOR, NORMAL, UNIFORM };
enum { AXES = 4, OPERANDS = 4 };

typedef struct {
    int32_t kind;
    int32_t operation;                  /* of a map: the line of its formula; of a sum: 1 if of products */
    int32_t is_double;                  /* the type of the output, and of all inputs but those of a cast */
    int32_t flags[3];
    int64_t size[AXES];                 /* of the axes, the innermost last; of matrices m, n, k and how many */
    int64_t stride[OPERANDS][AXES];     /* of the output and the inputs along the axes, in entries */
    void *at[OPERANDS];                 /* the output and the inputs */
    const int32_t *index;               /* of a move: where each entry comes from, negative for zero */
    double scalar, second;
} instruction;

typedef struct {
    const instruction *code;
    int64_t instructions;
    const void *loss;
    int32_t is_double;                  /* the type of the loss and of the parameters */
    int32_t counter;                    /* 1: normals are functions of seed and step; 0: they continue MXNet's streams */
    uint64_t seed, step;
    void *streams;                      /* MXNet's generators */
    int64_t has_failed;                 /* whether the last run met a matrix that is not positive definite */
} program;

typedef struct {
    void *values, *gradients, *first, *second;
    int64_t size;
    double beta1, beta2, epsilon, decay;
} adam;

#endif
