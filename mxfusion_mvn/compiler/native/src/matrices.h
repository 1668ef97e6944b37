/* SPDX-License-Identifier: Apache-2.0
   Products, triangular solves and Cholesky factors of row-major matrices: own loops where matrices are small, else MXNet's
   BLAS and LAPACK. These are column-major, so that they see transposed matrices: sides and triangles are exchanged. */

typedef void NAME(gemm_t)(const char *, const char *, const int *, const int *, const int *, const T *, const T *, const int *, const T *, const int *, const T *, T *, const int *);
typedef void NAME(trsm_t)(const char *, const char *, const char *, const char *, const int *, const int *, const T *, const T *, const int *, T *, const int *);
typedef void NAME(potrf_t)(const char *, const int *, T *, const int *, int *);

#define L (WIDTH / (int)sizeof(T))                /* lanes of a vector */
typedef T NAME(vector) __attribute__((vector_size(WIDTH), aligned(sizeof(T)), may_alias));
#define V NAME(vector)
#define AT(p) (*(const V *)(p))

/* Blocks of rows times vectors of columns; of the last vector `width` entries are wanted. */
#define BLOCK(rows, vectors) INLINE void NAME(block_##rows##_##vectors)(T *restrict c, const T *restrict a, const T *restrict b, int64_t k, int64_t ra, int64_t ca, int64_t rb, int64_t rc, T alpha, int width) { \
    V sums[rows][vectors]; \
    for (int i = 0; i < rows; i++) for (int j = 0; j < vectors; j++) sums[i][j] = (V){0}; \
    for (int64_t p = 0; p < k; p++) \
        for (int i = 0; i < rows; i++) { T f = a[i * ra + p * ca]; for (int j = 0; j < vectors; j++) sums[i][j] += f * AT(b + p * rb + j * L); } \
    for (int i = 0; i < rows; i++) \
        if (width == vectors * L) for (int j = 0; j < vectors; j++) *(V *)(c + i * rc + j * L) = alpha * sums[i][j]; \
        else { sums[i][0] *= alpha; for (int j = 0; j < width; j++) c[i * rc + j] = sums[i][0][j]; } }
BLOCK(6, 2) BLOCK(4, 2) BLOCK(2, 2) BLOCK(1, 2) BLOCK(6, 1) BLOCK(4, 1) BLOCK(2, 1) BLOCK(1, 1)
#undef BLOCK

/* One factor of a product: its entry (i, p) at i * row + p * column. */
typedef struct { const T *x; int64_t row, column; } NAME(matrix);

/* The second factor in whole vectors, in the order in which they are read, with zeros past the last column. */
static NAME(matrix) NAME(packed)(NAME(matrix) b, int64_t k, int64_t n, int64_t wide, T *restrict to) {
    for (int64_t p = 0; p < k; p++) {
        if (b.column == 1) IVDEP for (int64_t j = 0; j < n; j++) to[p * wide + j] = b.x[p * b.row + j];
        else for (int64_t j = 0; j < n; j++) to[p * wide + j] = b.x[p * b.row + j * b.column];
        for (int64_t j = n; j < wide; j++) to[p * wide + j] = 0;
    }
    return (NAME(matrix)){to, wide, 1};
}
/* A copy (rows, columns) of a matrix, zero above (is_lower) or below its diagonal. */
static NAME(matrix) NAME(triangle)(NAME(matrix) a, int64_t rows, int64_t columns, int is_lower, T *restrict to) {
    for (int64_t i = 0; i < rows; i++) for (int64_t p = 0; p < columns; p++)
        to[i * columns + p] = (is_lower ? p <= i : p >= i) ? a.x[i * a.row + p * a.column] : 0;
    return (NAME(matrix)){to, columns, 1};
}

static void NAME(blocks)(T *restrict c, NAME(matrix) a, NAME(matrix) b, int64_t m, int64_t n, int64_t k, T alpha) {
    for (int64_t j = 0; j < n;) {
        int vectors = n - j >= 2 * L ? 2 : 1, width = n < L ? (int)n : vectors * L;
        int64_t i = 0;
        if (n >= L && n - j < L) j = n - L;       /* the last columns once more */
#define ROWS(rows, vectors) for (; i + rows <= m; i += rows) NAME(block_##rows##_##vectors)(c + i * n + j, a.x + i * a.row, b.x + j, k, a.row, a.column, b.row, n, alpha, width);
        if (vectors == 2) { ROWS(6, 2) ROWS(4, 2) ROWS(2, 2) ROWS(1, 2) }
        else { ROWS(6, 1) ROWS(4, 1) ROWS(2, 1) ROWS(1, 1) }
#undef ROWS
        j += vectors * L;
    }
}

/* From how many multiplications on BLAS is faster, and from how many its threads are worth it; measured. */
#define PRODUCT_OF_BLAS 3e6
#define DOT_PRODUCTS 100

/* c (m, n) = alpha a (m, k) b (k, n). */
static void NAME(multiply)(T *restrict c, NAME(matrix) a, NAME(matrix) b, int64_t m, int64_t n, int64_t k, T alpha, NAME(gemm_t) *gemm) {
    int is_a_transposed = a.column != 1, is_b_transposed = b.column != 1;
    if ((double)m * n * k > PRODUCT_OF_BLAS && n > 1 && m > 1 && (a.column == 1 || a.row == 1) && (b.column == 1 || b.row == 1)) {
        int wide = (int)n, high = (int)m, deep = (int)k, step_a = (int)(is_a_transposed ? a.column : a.row), step_b = (int)(is_b_transposed ? b.column : b.row);
        T beta = 0;
        gemm(is_b_transposed ? "T" : "N", is_a_transposed ? "T" : "N", &wide, &high, &deep, &alpha, b.x, &step_b, a.x, &step_a, &beta, c, &wide);
        return;
    }
    if (n == 1 && a.row == 1 && a.column != 1) {  /* its transpose, a row times a matrix, reads vectors */
        NAME(matrix) row = {b.x, 0, b.row}, turned = {a.x, a.column, 1};
        a = row; b = turned; n = m; m = 1;
    }
    if (k == 1) {                                 /* an outer product */
        for (int64_t i = 0; i < m; i++) {
            T f = alpha * a.x[i * a.row];
            IVDEP for (int64_t j = 0; j < n; j++) c[i * n + j] = f * b.x[j * b.column];
        }
        return;
    }
    const int is_packed = b.column != 1 || n < L, is_of_dots = m * n * k <= DOT_PRODUCTS || (a.column == 1 && b.row == 1 && (n == 1 || m == 1));
    const int64_t wide = n < L ? L : n;
    T *room = is_packed && !is_of_dots ? NAME(memory)(k * wide) : NULL;
    if (is_of_dots || (is_packed && !room)) {
        for (int64_t i = 0; i < m; i++) for (int64_t j = 0; j < n; j++)
            c[i * n + j] = alpha * NAME(dot)(a.x + i * a.row, b.x + j * b.column, k, a.column, b.row);
        return;
    }
    if (is_packed) b = NAME(packed)(b, k, n, wide, room);
    NAME(blocks)(c, a, b, m, n, k, alpha);
}

/* A batch of products; size: m, n, k and how many; stride[1] and [2]: of rows, of columns, and from matrix to matrix.
   flags: which factor is a triangle (1 or 2, 0 for none) and whether that is the lower one; at[3]: room for a copy of it. */
static void NAME(product)(const instruction *q, NAME(gemm_t) *gemm) {
    const int64_t m = q->size[0], n = q->size[1], k = q->size[2], *sa = q->stride[1], *sb = q->stride[2];
    for (int64_t i = 0; i < q->size[3]; i++) {
        NAME(matrix) a = {(const T *)q->at[1] + i * sa[2], sa[0], sa[1]}, b = {(const T *)q->at[2] + i * sb[2], sb[0], sb[1]};
        if (q->flags[0] == 1) a = NAME(triangle)(a, m, k, q->flags[1], q->at[3]);
        if (q->flags[0] == 2) b = NAME(triangle)(b, k, n, q->flags[1], q->at[3]);
        NAME(multiply)((T *)q->at[0] + i * m * n, a, b, m, n, k, (T)q->scalar, gemm);
    }
}

/* Small systems: the same loops for one matrix (X is T), and for as many side by side as a vector has lanes (X is V).
   x (m, n) becomes the solution of l x or, on the right, of x l; l is lower triangular, or transposed. */
#define SMALL(X, suffix, ROOT) \
static void NAME(solve_##suffix)(X *restrict x, const X *restrict l, int m, int n, int is_transposed, int is_right) { \
    if (is_right) for (int r = 0; r < m; r++) { \
        X *restrict y = x + r * n; \
        for (int step = 0; step < n; step++) { \
            int j = is_transposed ? step : n - 1 - step; \
            X s = y[j]; \
            for (int p = is_transposed ? 0 : j + 1; p < (is_transposed ? j : n); p++) s -= y[p] * (is_transposed ? l[j * n + p] : l[p * n + j]); \
            y[j] = s / l[j * n + j]; } } \
    else for (int step = 0; step < m; step++) { \
        int i = is_transposed ? m - 1 - step : step; \
        for (int p = is_transposed ? i + 1 : 0; p < (is_transposed ? m : i); p++) { \
            X f = is_transposed ? l[p * m + i] : l[i * m + p]; \
            IVDEP for (int j = 0; j < n; j++) x[i * n + j] -= f * x[p * n + j]; } \
        X d = l[i * m + i]; \
        IVDEP for (int j = 0; j < n; j++) x[i * n + j] /= d; } } \
static void NAME(factor_##suffix)(X *restrict l, int n) { \
    for (int i = 0; i < n; i++) { \
        for (int j = 0; j <= i; j++) { \
            X s = l[i * n + j]; \
            for (int p = 0; p < j; p++) s -= l[i * n + p] * l[j * n + p]; \
            if (i == j) l[i * n + i] = ROOT(s); else l[i * n + j] = s / l[j * n + j]; } \
        for (int j = i + 1; j < n; j++) l[i * n + j] = (X){0}; } }
#define ROOT_OF_ONE(s) ((s) > 0 ? sqrt(s) : (T)NAN)  /* nan where a matrix is not positive definite */
static inline V NAME(root)(V s) { for (int l = 0; l < L; l++) s[l] = ROOT_OF_ONE(s[l]); return s; }
SMALL(T, one, ROOT_OF_ONE)
SMALL(V, lanes, NAME(root))
#undef SMALL

/* Up to which dimension matrices are laid side by side, and up to which size one is solved or factorised here; measured. */
#define SIDE_BY_SIDE 32
#define SOLVED_HERE 400
#define FACTORISED_HERE 8
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
        if ((double)m * n * d > SOLVED_HERE) {
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
        if (n <= FACTORISED_HERE) { NAME(factor_one)(factor, n); continue; }
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
#undef L
#undef V
#undef AT
