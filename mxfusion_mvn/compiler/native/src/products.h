/* SPDX-License-Identifier: Apache-2.0
   Products of row-major matrices: own loops where they are small, else MXNet's BLAS. That is column-major, so that it sees
   transposed matrices: the factors are exchanged. */

typedef void NAME(gemm_t)(const char *, const char *, const int *, const int *, const int *, const T *, const T *, const int *, const T *, const int *, const T *, T *, const int *);
/* Blocks of rows times vectors of columns; of the last vector `width` entries are wanted: it may write over the rows after
   it, which come later, before `end`. */
#define BLOCK(rows, vectors) INLINE void NAME(block_##rows##_##vectors)(T *restrict c, const T *restrict a, const T *restrict b, int64_t k, int64_t ra, int64_t ca, int64_t rb, int64_t rc, T alpha, int width, const T *end, int is_added) { \
    V sums[rows][vectors]; \
    UNROLLED for (int i = 0; i < rows; i++) UNROLLED for (int j = 0; j < vectors; j++) sums[i][j] = (V){0}; \
    for (int64_t p = 0; p < k; p++) \
        UNROLLED for (int i = 0; i < rows; i++) { T f = a[i * ra + p * ca]; UNROLLED for (int j = 0; j < vectors; j++) sums[i][j] += f * AT(b + p * rb + j * L); } \
    UNROLLED for (int i = 0; i < rows; i++) \
        if (width == vectors * L) UNROLLED for (int j = 0; j < vectors; j++) *(V *)(c + i * rc + j * L) = alpha * sums[i][j] + (is_added ? AT(c + i * rc + j * L) : (V){0}); \
        else if (end - (c + i * rc) >= L) *(V *)(c + i * rc) = alpha * sums[i][0]; \
        else { T last[L]; *(V *)last = alpha * sums[i][0]; for (int j = 0; j < width; j++) c[i * rc + j] = last[j]; } }
BLOCK(6, 2) BLOCK(4, 2) BLOCK(2, 2) BLOCK(1, 2) BLOCK(6, 1) BLOCK(4, 1) BLOCK(2, 1) BLOCK(1, 1)
#undef BLOCK

/* One factor of a product: its entry (i, p) at i * row + p * column. */
typedef struct { const T *x; int64_t row, column; } NAME(matrix);

/* Columns of the second factor in whole vectors, in the order in which they are read; past the last lies anything. */
static NAME(matrix) NAME(packed)(NAME(matrix) b, int64_t k, int64_t n, int64_t wide, T *restrict to) {
    int64_t p = 0;
    if (b.column == 1)                            /* whole vectors, as far as they end within the matrix */
        for (; p < k && p * b.row + wide <= (k - 1) * b.row + n; p++)
            for (int64_t j = 0; j < wide; j += L) *(V *)(to + p * wide + j) = AT(b.x + p * b.row + j);
    for (int64_t j = 0; j < wide; j++)
        for (int64_t q = p; q < k; q++) to[q * wide + j] = j < n ? b.x[q * b.row + j * b.column] : 0;
    return (NAME(matrix)){to, wide, 1};
}
/* c (1, n) = alpha a (1, k) b (k, n), for rows of b that lie in memory as they are: four sums of each vector, so that
   none waits for the one before. */
static void NAME(row_product)(T *restrict c, NAME(matrix) a, NAME(matrix) b, int64_t n, int64_t k, T alpha) {
    for (int64_t j = 0; j < n;) {
        if (n >= L && n - j < L) j = n - L;       /* the last columns once more */
        int width = n - j < L ? (int)(n - j) : L;
        V p0 = {0}, p1 = {0}, p2 = {0}, p3 = {0};
        T sums[L];
        const T *x = b.x + j;
        const int64_t last = (k - 1) * b.row + width - L, whole = last < 0 ? 0 : b.row ? last / b.row + 1 : k;
        int64_t p = 0;
        for (; p + 4 <= whole; p += 4) {
            p0 += a.x[p * a.column] * AT(x + p * b.row);
            p1 += a.x[(p + 1) * a.column] * AT(x + (p + 1) * b.row);
            p2 += a.x[(p + 2) * a.column] * AT(x + (p + 2) * b.row);
            p3 += a.x[(p + 3) * a.column] * AT(x + (p + 3) * b.row);
        }
        for (; p < whole; p++) p0 += a.x[p * a.column] * AT(x + p * b.row);
        *(V *)sums = (p0 + p1) + (p2 + p3);
        for (; p < k; p++) for (int l = 0; l < width; l++) sums[l] += a.x[p * a.column] * x[p * b.row + l];
        for (int l = 0; l < width; l++) c[j + l] = alpha * sums[l];
        j += L;
    }
}
/* A copy (rows, columns) of a matrix, zero above (is_lower) or below its diagonal. */
static NAME(matrix) NAME(triangle)(NAME(matrix) a, int64_t rows, int64_t columns, int is_lower, T *restrict to) {
    for (int64_t i = 0; i < rows; i++) for (int64_t p = 0; p < columns; p++)
        to[i * columns + p] = (is_lower ? p <= i : p >= i) ? a.x[i * a.row + p * a.column] : 0;
    return (NAME(matrix)){to, columns, 1};
}

/* A strip of columns after the other; of each, as much at a time as the nearest memory holds. Packed strips of matrices
   with long rows stay there. Returns 0 where there is no memory. */
#define DEEP 256
static int NAME(blocks)(T *restrict c, NAME(matrix) a, NAME(matrix) b, int64_t m, int64_t n, int64_t k, T alpha) {
    const int is_packed = b.column != 1 || n < L || (m > 24 && b.row > 4 * L);
    T *room = is_packed ? NAME(memory)((n < L ? k : 2 * DEEP) * 2 * L) : NULL;
    if (is_packed && !room) return 0;
    for (int64_t j = 0; j < n;) {
        int vectors = n - j >= 2 * L ? 2 : 1, width = n < L ? (int)n : vectors * L;
        if (n >= L && n - j < L) j = n - L;       /* the last columns once more */
        for (int64_t p = 0, deep; p < k; p += deep) {
            int64_t i = 0;
            deep = n < L || k - p < 2 * DEEP ? k - p : DEEP;
            NAME(matrix) strip = {b.x + p * b.row + j * b.column, b.row, b.column};
            if (is_packed) strip = NAME(packed)(strip, deep, width, vectors * L, room);
#define ROWS(rows, vectors) for (; i + rows <= m; i += rows) NAME(block_##rows##_##vectors)(c + i * n + j, a.x + i * a.row + p * a.column, strip.x, deep, a.row, a.column, strip.row, n, alpha, width, c + m * n, p > 0);
            if (vectors == 2) { ROWS(6, 2) ROWS(4, 2) ROWS(2, 2) ROWS(1, 2) }
            else { ROWS(6, 1) ROWS(4, 1) ROWS(2, 1) ROWS(1, 1) }
#undef ROWS
        }
        j += vectors * L;
    }
    return 1;
}

/* From how many multiplications on BLAS is faster, and from how many its threads are worth it; measured. */
#define PRODUCT_OF_BLAS 2e7
#define DOT_PRODUCTS 100
#define LONG_DOT 4                                /* in vectors: a shorter one takes its time for the sum of the last */

/* c (m, n) = alpha a (m, k) b (k, n). */
static void NAME(multiply)(T *restrict c, NAME(matrix) a, NAME(matrix) b, int64_t m, int64_t n, int64_t k, T alpha, NAME(gemm_t) *gemm) {
    int is_a_transposed = a.column != 1, is_b_transposed = b.column != 1;
    if ((double)m * n * k > PRODUCT_OF_BLAS && n > 1 && m > 1 && (a.column == 1 || a.row == 1) && (b.column == 1 || b.row == 1)) {
        int wide = (int)n, high = (int)m, deep = (int)k, step_a = (int)(is_a_transposed ? a.column : a.row), step_b = (int)(is_b_transposed ? b.column : b.row);
        T beta = 0;
        gemm(is_b_transposed ? "T" : "N", is_a_transposed ? "T" : "N", &wide, &high, &deep, &alpha, b.x, &step_b, a.x, &step_a, &beta, c, &wide);
        return;
    }
    if ((n == 1 && a.row == 1 && a.column != 1) || (m == 1 && b.row == 1 && b.column != 1)) {
        /* its transpose: a row times a matrix reads vectors, and so does a matrix times a column, of dot products */
        NAME(matrix) first = {b.x, b.column, b.row}, second = {a.x, a.column, a.row};
        int64_t rows = m;
        a = first; b = second; m = n; n = rows;
    }
    if (k == 1) {                                 /* an outer product */
        for (int64_t i = 0; i < m; i++) {
            T f = alpha * a.x[i * a.row];
            IVDEP for (int64_t j = 0; j < n; j++) c[i * n + j] = f * b.x[j * b.column];
        }
        return;
    }
    if (m == 1 && b.column == 1 && m * n * k > DOT_PRODUCTS) {
        NAME(row_product)(c, a, b, n, k, alpha);
        return;
    }
    const int is_of_dots = m * n * k <= DOT_PRODUCTS || (n == 1 && a.column == 1 && b.row == 1 && (m == 1 || k > LONG_DOT * L));
    if (is_of_dots || !NAME(blocks)(c, a, b, m, n, k, alpha))
        for (int64_t i = 0; i < m; i++) for (int64_t j = 0; j < n; j++)
            c[i * n + j] = alpha * NAME(dot)(a.x + i * a.row, b.x + j * b.column, k, a.column, b.row);
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
