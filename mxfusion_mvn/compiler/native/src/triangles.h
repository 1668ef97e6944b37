/* SPDX-License-Identifier: Apache-2.0
   Triangular solves and Cholesky factors of row-major matrices: own loops up to a size, then MXNet's BLAS and LAPACK. These
   are column-major, so that they see transposed matrices: sides and triangles are exchanged. */

typedef void NAME(trsm_t)(const char *, const char *, const char *, const char *, const int *, const int *, const T *, const T *, const int *, T *, const int *);
typedef void NAME(potrf_t)(const char *, const int *, T *, const int *, int *);

/* Up to which dimension matrices are laid side by side, up to which size of a system, and dimension, there is no need of
   strips, and from which dimension on BLAS may have several threads (THREADED_MATRIX of thresholds.py); measured. */
#define SIDE_BY_SIDE 32
#define SMALL_SYSTEM 400
#define SMALL_FACTOR 3
#define STRIPS_BELOW 400

/* Small systems: the same loops for one matrix (X is T), and for as many side by side as a vector has lanes (X is V).
   x (m, n) becomes the solution of l x or, on the right, of x l; l is lower triangular, or transposed. */
#define SMALL(X, suffix, ROOT) \
static void NAME(solve_##suffix)(X *restrict x, const X *restrict l, int m, int n, int is_transposed, int is_right) { \
    const int d = is_right ? n : m; \
    X inverse[SIDE_BY_SIDE]; \
    for (int i = 0; i < d; i++) inverse[i] = 1 / l[i * (d + 1)]; \
    if (is_right) for (int r = 0; r < m; r++) { \
        X *restrict y = x + r * n; \
        for (int step = 0; step < n; step++) { \
            int j = is_transposed ? step : n - 1 - step; \
            X s = y[j]; \
            for (int p = is_transposed ? 0 : j + 1; p < (is_transposed ? j : n); p++) s -= y[p] * (is_transposed ? l[j * n + p] : l[p * n + j]); \
            y[j] = s * inverse[j]; } } \
    else for (int step = 0; step < m; step++) { \
        int i = is_transposed ? m - 1 - step : step; \
        for (int p = is_transposed ? i + 1 : 0; p < (is_transposed ? m : i); p++) { \
            X f = is_transposed ? l[p * m + i] : l[i * m + p]; \
            IVDEP for (int j = 0; j < n; j++) x[i * n + j] -= f * x[p * n + j]; } \
        X f = inverse[i]; \
        IVDEP for (int j = 0; j < n; j++) x[i * n + j] *= f; } } \
static void NAME(factor_##suffix)(X *restrict l, int n) { \
    X inverse[SIDE_BY_SIDE]; \
    for (int i = 0; i < n; i++) { \
        for (int j = 0; j <= i; j++) { \
            X s = l[i * n + j]; \
            for (int p = 0; p < j; p++) s -= l[i * n + p] * l[j * n + p]; \
            if (i == j) { l[i * n + i] = ROOT(s); inverse[i] = 1 / l[i * n + i]; } \
            else l[i * n + j] = s * inverse[j]; } \
        for (int j = i + 1; j < n; j++) l[i * n + j] = (X){0}; } }
#define ROOT_OF_ONE(s) ((s) > 0 ? sqrt(s) : (T)NAN)  /* nan where a matrix is not positive definite */
static inline V NAME(root)(V s) { for (int l = 0; l < L; l++) s[l] = ROOT_OF_ONE(s[l]); return s; }
SMALL(T, one, ROOT_OF_ONE)
SMALL(V, lanes, NAME(root))
#undef SMALL

/* Rows of x, in vectors, less what the rows solved before contribute: a block of rows of t x = b, whose lower triangle t
   has its entry (i, p) at i * row + p * column. `wide` is from row to row of x, `inverse` the reciprocals of the diagonal. */
#define ELIMINATE(rows, vectors) INLINE void NAME(eliminate_##rows##_##vectors)(T *x, int64_t wide, const T *t, int64_t row, int64_t column, const T *inverse, int64_t begin) { \
    V sums[rows][vectors]; \
    UNROLLED for (int i = 0; i < rows; i++) UNROLLED for (int j = 0; j < vectors; j++) sums[i][j] = AT(x + (begin + i) * wide + j * L); \
    for (int64_t p = 0; p < begin; p++) \
        UNROLLED for (int i = 0; i < rows; i++) { T f = t[(begin + i) * row + p * column]; UNROLLED for (int j = 0; j < vectors; j++) sums[i][j] -= f * AT(x + p * wide + j * L); } \
    UNROLLED for (int i = 0; i < rows; i++) { \
        UNROLLED for (int p = 0; p < i; p++) { T f = t[(begin + i) * row + (begin + p) * column]; UNROLLED for (int j = 0; j < vectors; j++) sums[i][j] -= f * sums[p][j]; } \
        UNROLLED for (int j = 0; j < vectors; j++) { sums[i][j] *= inverse[begin + i]; *(V *)(x + (begin + i) * wide + j * L) = sums[i][j]; } } }
ELIMINATE(6, 2) ELIMINATE(2, 2) ELIMINATE(1, 2) ELIMINATE(6, 1) ELIMINATE(2, 1) ELIMINATE(1, 1)
#undef ELIMINATE

/* x (d, two vectors, or one) becomes the solution of t x. */
static void NAME(solve_strip)(T *x, int64_t d, int64_t wide, int vectors, const T *t, int64_t row, int64_t column, const T *inverse) {
    int64_t i = 0;
#define ROWS(rows, vectors) for (; i + rows <= d; i += rows) NAME(eliminate_##rows##_##vectors)(x, wide, t, row, column, inverse, i);
    if (vectors == 2) { ROWS(6, 2) ROWS(2, 2) ROWS(1, 2) }
    else { ROWS(6, 1) ROWS(2, 1) ROWS(1, 1) }
#undef ROWS
}

/* x (m, n) becomes the solution of l x or, on the right, of x l, strip by strip. Backward, all is read from the end.
   Returns 0 where there is no memory. */
static int NAME(solve_strips)(T *restrict x, const T *restrict l, int64_t m, int64_t n, int is_transposed, int is_right, T alpha) {
    const int64_t d = is_right ? n : m, count = is_right ? m : n;
    const int is_backward = is_transposed != is_right;
    T *strip = NAME(memory)(d + 2 * L * d), *inverse = strip + 2 * L * d;
    if (!strip) return 0;
    for (int64_t i = 0; i < d; i++) { int64_t k = is_backward ? d - 1 - i : i; inverse[i] = 1 / l[k * (d + 1)]; }
    for (int64_t begin = 0; begin < count; begin += 2 * L) {
        const int64_t width = count - begin < 2 * L ? count - begin : 2 * L, wide = width > L ? 2 * L : L;
        if (is_right) for (int64_t j = 0; j < width; j++) for (int64_t i = 0; i < d; i++) strip[i * wide + j] = alpha * x[(begin + j) * n + i];
        else for (int64_t i = 0; i < d; i++) IVDEP for (int64_t j = 0; j < width; j++) strip[i * wide + j] = alpha * x[i * n + begin + j];
        for (int64_t i = 0; i < d; i++) for (int64_t j = width; j < wide; j++) strip[i * wide + j] = 0;
        if (is_backward) NAME(solve_strip)(strip + (d - 1) * wide, d, -wide, wide > L ? 2 : 1, l + d * d - 1, -1, -d, inverse);
        else NAME(solve_strip)(strip, d, wide, wide > L ? 2 : 1, l, d, 1, inverse);
        if (is_right) for (int64_t j = 0; j < width; j++) for (int64_t i = 0; i < d; i++) x[(begin + j) * n + i] = strip[i * wide + j];
        else for (int64_t i = 0; i < d; i++) IVDEP for (int64_t j = 0; j < width; j++) x[i * n + begin + j] = strip[i * wide + j];
    }
    return 1;
}

/* As `eliminate` of the strip that begins with the diagonal of the block, which is found on the way; u^T u is factorised. */
#define PIVOT(rows) INLINE void NAME(pivot_##rows)(T *x, int64_t wide, T *inverse, int64_t begin) { \
    V sums[rows][2]; \
    UNROLLED for (int i = 0; i < rows; i++) UNROLLED for (int j = 0; j < 2; j++) sums[i][j] = AT(x + (begin + i) * wide + j * L); \
    for (int64_t p = 0; p < begin; p++) \
        UNROLLED for (int i = 0; i < rows; i++) { T f = x[p * wide + i]; UNROLLED for (int j = 0; j < 2; j++) sums[i][j] -= f * AT(x + p * wide + j * L); } \
    UNROLLED for (int i = 0; i < rows; i++) { \
        UNROLLED for (int p = 0; p < i; p++) { T f = sums[p][i / L % 2][i % L]; UNROLLED for (int j = 0; j < 2; j++) sums[i][j] -= f * sums[p][j]; } \
        T d = sums[i][i / L % 2][i % L]; \
        inverse[begin + i] = 1 / ROOT_OF_ONE(d); \
        UNROLLED for (int j = 0; j < 2; j++) { sums[i][j] *= inverse[begin + i]; *(V *)(x + (begin + i) * wide + j * L) = sums[i][j]; } } }
PIVOT(6) PIVOT(2) PIVOT(1)

/* The lower triangle a (n, n) becomes its Cholesky factor, by rows of the upper one in memory of its own. */
static int NAME(factor_strips)(T *restrict a, int64_t n) {
    const int64_t wide = (n + 2 * L - 1) / L * L + L; /* a strip may begin at any column */
    T *u = NAME(memory)(n * wide + n + 2 * L), *inverse = u + n * wide + 2 * L;
    if (!u) return 0;
    for (int64_t i = 0; i < n; i++) for (int64_t j = i; j < n; j++) u[i * wide + j] = a[j * n + i];
    for (int64_t i = 0; i < n; i++) for (int64_t j = n; j < wide; j++) u[i * wide + j] = 0;
#define ROWS(rows) for (; begin + rows <= n; begin += rows) { \
        NAME(pivot_##rows)(u + begin, wide, inverse, begin); \
        for (int64_t j = begin + 2 * L; j < n; j += n - j > L ? 2 * L : L) \
            if (n - j > L) NAME(eliminate_##rows##_2)(u + j, wide, u, 1, wide, inverse, begin); \
            else NAME(eliminate_##rows##_1)(u + j, wide, u, 1, wide, inverse, begin); }
    int64_t begin = 0;
    if (2 * L >= 6) { ROWS(6) }                   /* the diagonal of a block lies in two vectors */
    ROWS(2) ROWS(1)
#undef ROWS
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j <= i; j++) a[i * n + j] = u[j * wide + i];
        for (int64_t j = i + 1; j < n; j++) a[i * n + j] = 0;
    }
    return 1;
}

static void NAME(together)(T *restrict to, const T *restrict from, int64_t size, int64_t step) {
    for (int l = 0; l < L; l++) for (int64_t i = 0; i < size; i++) to[i * L + l] = from[l * step + i];
}
static void NAME(apart)(T *restrict to, const T *restrict from, int64_t size, int64_t step) {
    for (int l = 0; l < L; l++) for (int64_t i = 0; i < size; i++) to[l * step + i] = from[i * L + l];
}

/* size: m, n and how many; stride[1][0]: from factor to factor; flags: transposed, on the right. */
static void NAME(solve)(const instruction *q, NAME(trsm_t) *trsm) {
    const int64_t m = q->size[0], n = q->size[1], batch = q->size[3], step = q->stride[1][0];
    const int is_transposed = q->flags[0], is_right = q->flags[1], d = (int)(is_right ? n : m);
    const T *l = q->at[1]; T *x = q->at[0], alpha = (T)q->scalar;
    memcpy(x, q->at[2], sizeof(T) * (size_t)(batch * m * n));
    int64_t i = 0;
    const int is_batch = d <= SIDE_BY_SIDE && m * n <= 4 * SIDE_BY_SIDE * SIDE_BY_SIDE && step && batch >= L;
    T *sides = is_batch ? NAME(memory)(((int64_t)d * d + m * n) * L) : NULL;
    if (sides) {
        T *others = sides + (int64_t)d * d * L;
        for (; i + L <= batch; i += L) {
            NAME(together)(sides, l + i * step, (int64_t)d * d, step);
            NAME(together)(others, x + i * m * n, m * n, m * n);
            if (alpha != 1) for (int64_t j = 0; j < m * n * L; j++) others[j] *= alpha;
            NAME(solve_lanes)((V *)others, (const V *)sides, (int)m, (int)n, is_transposed, is_right);
            NAME(apart)(x + i * m * n, others, m * n, m * n);
        }
    }
    for (; i < batch; i++) {
        T *y = x + i * m * n; const T *factor = l + i * step;
        const int is_small = (double)m * n * d <= SMALL_SYSTEM;
        if (!is_small && d < STRIPS_BELOW && NAME(solve_strips)(y, factor, m, n, is_transposed, is_right, alpha)) continue;
        if (!is_small) {
            int wide = (int)n, high = (int)m;
            trsm(is_right ? "L" : "R", "U", is_transposed ? "T" : "N", "N", &wide, &high, &alpha, factor, &d, y, &wide);
            continue;
        }
        if (alpha != 1) for (int64_t j = 0; j < m * n; j++) y[j] *= alpha;
        NAME(solve_one)(y, factor, (int)m, (int)n, is_transposed, is_right);
    }
}

/* size: n and how many. Returns whether one of them is not positive definite. */
static int NAME(factorise)(const instruction *q, NAME(potrf_t) *potrf) {
    const int n = (int)q->size[0];
    const int64_t batch = q->size[3], square = (int64_t)n * n;
    T *l = q->at[0];
    memcpy(l, q->at[1], sizeof(T) * (size_t)(batch * square));
    int64_t i = 0;
    T *sides = n <= SIDE_BY_SIDE && batch >= L ? NAME(memory)(square * L) : NULL;
    if (sides)
        for (; i + L <= batch; i += L) {
            NAME(together)(sides, l + i * square, square, square);
            NAME(factor_lanes)((V *)sides, n);
            NAME(apart)(l + i * square, sides, square, square);
        }
    for (; i < batch; i++) {
        T *factor = l + i * square;
        if (n <= SMALL_FACTOR) { NAME(factor_one)(factor, n); continue; }
        if (n < STRIPS_BELOW && NAME(factor_strips)(factor, n)) continue;
        int failed = 0;
        potrf("U", &n, factor, &n, &failed);
        for (int64_t r = 0; r < n; r++) for (int64_t j = r + 1; j < n; j++) factor[r * n + j] = 0;
        if (failed) factor[square - 1] = NAN;
    }
    /* A matrix that is not positive definite has nan in its last entry, which follows from all before it. */
    int has_failed = 0;
    for (i = 0; i < batch; i++) {
        T *factor = l + i * square;
        if (factor[square - 1] == factor[square - 1]) continue;
        for (int64_t j = 0; j < square; j++) factor[j] = NAN;
        has_failed = 1;
    }
    return has_failed;
}
