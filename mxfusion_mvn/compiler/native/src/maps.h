/* SPDX-License-Identifier: Apache-2.0
   Entry by entry: one function for each formula, over a row; sums, largest entries and moves. */

/* Where the innermost strides are 1 or 0 the compiler makes vector instructions of the loop. */
#define ROW(name) static void name(T *restrict o, const T *pa, const T *pb, const T *pc, int64_t n, const int64_t *stride, T s, T t)
#define UNUSED (void)pb, (void)pc, (void)s, (void)t
#define MAP1(formula) ROW(LINE_NAME) { \
    UNUSED; \
    const int64_t so = stride[0], sa = stride[1]; \
    if (so == 1 && sa == 1) IVDEP for (int64_t i = 0; i < n; i++) { const T a = pa[i]; o[i] = formula; } \
    else for (int64_t i = 0; i < n; i++) { const T a = pa[i * sa]; o[i * so] = formula; } }
#define MAP2(formula) ROW(LINE_NAME) { \
    UNUSED; \
    const int64_t so = stride[0], sa = stride[1], sb = stride[2]; \
    if (so == 1 && sa == 1 && sb == 1) IVDEP for (int64_t i = 0; i < n; i++) { const T a = pa[i], b = pb[i]; o[i] = formula; } \
    else if (so == 1 && sa == 1 && sb == 0) { const T b = *pb; IVDEP for (int64_t i = 0; i < n; i++) { const T a = pa[i]; o[i] = formula; } } \
    else if (so == 1 && sa == 0 && sb == 1) { const T a = *pa; IVDEP for (int64_t i = 0; i < n; i++) { const T b = pb[i]; o[i] = formula; } } \
    else for (int64_t i = 0; i < n; i++) { const T a = pa[i * sa], b = pb[i * sb]; o[i * so] = formula; } }
#define MAP3(formula) ROW(LINE_NAME) { \
    UNUSED; \
    const int64_t so = stride[0], sa = stride[1], sb = stride[2], sc = stride[3]; \
    if (so == 1 && sa == 1 && sb == 1 && sc == 1) IVDEP for (int64_t i = 0; i < n; i++) { const T a = pa[i], b = pb[i], c = pc[i]; o[i] = formula; } \
    else for (int64_t i = 0; i < n; i++) { const T a = pa[i * sa], b = pb[i * sb], c = pc[i * sc]; o[i * so] = formula; } }
#define LINE_NAME NAME(JOIN(map, __LINE__))
#include "formulas.h"
#undef MAP1
#undef MAP2
#undef MAP3
#define MAP1(formula) LINE_NAME,
#define MAP2(formula) LINE_NAME,
#define MAP3(formula) LINE_NAME,
typedef void NAME(row)(T *restrict, const T *, const T *, const T *, int64_t, const int64_t *, T, T);
static NAME(row) *const NAME(rows)[] = {
#include "formulas.h"
};
#undef MAP1
#undef MAP2
#undef MAP3

/* For each row, along the innermost axis, with the shifts of the operands to it in `shift`. */
#define FOR_EACH_ROW(q, ...) { \
    int64_t shift[OPERANDS] = {0}; \
    for (int64_t i0 = 0; i0 < q->size[0]; i0++) for (int64_t i1 = 0; i1 < q->size[1]; i1++) for (int64_t i2 = 0; i2 < q->size[2]; i2++) { \
        for (int v = 0; v < OPERANDS; v++) shift[v] = i0 * q->stride[v][0] + i1 * q->stride[v][1] + i2 * q->stride[v][2]; \
        __VA_ARGS__ } }

static void NAME(map)(const instruction *q) {
    T *o = q->at[0]; const T *a = q->at[1], *b = q->at[2], *c = q->at[3];
    NAME(row) *row = NAME(rows)[q->operation];
    const int64_t inner[OPERANDS] = {q->stride[0][3], q->stride[1][3], q->stride[2][3], q->stride[3][3]};
    const T s = (T)q->scalar, t = (T)q->second;
    FOR_EACH_ROW(q, row(o + shift[0], a + shift[1], b + shift[2], c + shift[3], q->size[3], inner, s, t);)
}

/* Memory of each thread, which grows; NULL where there is none left. */
static __thread T *NAME(scratch);
static __thread int64_t NAME(scratch_size);
static T *NAME(memory)(int64_t size) {
    if (size > NAME(scratch_size)) {
        free(NAME(scratch));
        NAME(scratch) = aligned_alloc(64, ((size_t)size * sizeof(T) + 63) / 64 * 64);
        NAME(scratch_size) = NAME(scratch) ? size : 0;
    }
    return NAME(scratch);
}

/* A sum keeps four vectors of partial sums, and adds those of each block in double precision. */
#define BLOCK_OF_SUM 16384
#define SUM_OF(name, ARGUMENTS, IS_DENSE, VECTOR, ENTRY) \
static T NAME(name) ARGUMENTS { \
    double sum = 0; \
    int64_t i = 0; \
    if (IS_DENSE) \
        while (n - i >= L) { \
            V p0 = {0}, p1 = {0}, p2 = {0}, p3 = {0}; \
            T partial[L]; \
            int64_t end = n - i < BLOCK_OF_SUM ? n : i + BLOCK_OF_SUM; \
            for (; i + 4 * L <= end; i += 4 * L) { p0 += VECTOR(i); p1 += VECTOR(i + L); p2 += VECTOR(i + 2 * L); p3 += VECTOR(i + 3 * L); } \
            for (; i + L <= end; i += L) p0 += VECTOR(i); \
            *(V *)partial = (p0 + p1) + (p2 + p3); \
            for (int h = L / 2; h; h /= 2) for (int l = 0; l < h; l++) partial[l] += partial[l + h]; \
            sum += partial[0]; \
        } \
    for (; i < n; i++) sum += ENTRY; \
    return (T)sum; }
#define PRODUCT_AT(i) AT(a + (i)) * AT(b + (i))
#define ENTRY_AT(i) AT(a + (i))
SUM_OF(dot, (const T *a, const T *b, int64_t n, int64_t sa, int64_t sb), sa == 1 && sb == 1, PRODUCT_AT, a[i * sa] * b[i * sb])
SUM_OF(total, (const T *a, int64_t n, int64_t sa), sa == 1, ENTRY_AT, a[i * sa])
#undef SUM_OF
#undef PRODUCT_AT
#undef ENTRY_AT
static T NAME(largest)(T found, const T *a, int64_t n, int64_t sa) {
    for (int64_t i = 0; i < n; i++) if (a[i * sa] > found || a[i * sa] != a[i * sa]) found = a[i * sa];  /* a nan stays */
    return found;
}

/* From how many entries on for one of the output sums are kept in double precision. */
#define LONG_SUM 64
#define ADD_ROWS(sums) FOR_EACH_ROW(q, { \
    const T *x = a + shift[1], *y = b + shift[2]; \
    if (!so) sums[shift[0]] += q->operation ? NAME(dot)(x, y, n, sa, sb) : NAME(total)(x, n, sa); \
    else if (q->operation) for (int64_t i = 0; i < n; i++) sums[shift[0] + i * so] += x[i * sa] * y[i * sb]; \
    else if (so == 1 && sa == 1) IVDEP for (int64_t i = 0; i < n; i++) sums[shift[0] + i] += x[i]; \
    else for (int64_t i = 0; i < n; i++) sums[shift[0] + i * so] += x[i * sa]; })

/* Sums, or largest entries, over the axes along which the output has no stride; `flags[0]`: how many entries it has, one
   after the other. */
static void NAME(reduce)(const instruction *q) {
    T *o = q->at[0]; const T *a = q->at[1], *b = q->at[2];
    const int64_t n = q->size[3], so = q->stride[0][3], sa = q->stride[1][3], sb = q->stride[2][3], count = q->flags[0];
    if (q->kind == MAXIMUM) {
        for (int64_t i = 0; i < count; i++) o[i] = -(T)INFINITY;
        FOR_EACH_ROW(q, {
            T *to = o + shift[0]; const T *x = a + shift[1];
            for (int64_t i = 0; i < (so ? n : 1); i++) to[i * so] = NAME(largest)(to[i * so], x + i * sa, so ? 1 : n, sa);
        })
        return;
    }
    const int64_t rows = q->size[0] * q->size[1] * q->size[2];
    const int is_long = IS_FLOAT && (so || rows > 1) && rows * n > LONG_SUM * count;
    double *exact = is_long ? (double *)(void *)NAME(memory)(2 * count) : NULL;
    if (exact) {
        for (int64_t i = 0; i < count; i++) exact[i] = 0;
        ADD_ROWS(exact)
        for (int64_t i = 0; i < count; i++) o[i] = (T)exact[i];
    } else {
        for (int64_t i = 0; i < count; i++) o[i] = 0;
        ADD_ROWS(o)
    }
    if (q->scalar != 1) for (int64_t i = 0; i < count; i++) o[i] *= (T)q->scalar;
}

static void NAME(move)(const instruction *q) {
    T *restrict o = q->at[0]; const T *restrict a = q->at[1]; const int32_t *restrict from = q->index;
    for (int64_t i = 0; i < q->size[3]; i++) o[i] = from[i] < 0 ? 0 : a[from[i]];
}

static void NAME(cast)(const instruction *q) {
    T *restrict o = q->at[0]; const OTHER *restrict a = q->at[1];
    FOR_EACH_ROW(q, for (int64_t i = 0; i < q->size[3]; i++) o[shift[0] + i * q->stride[0][3]] = (T)a[shift[1] + i * q->stride[1][3]];)
}
