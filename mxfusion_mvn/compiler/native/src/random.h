/* SPDX-License-Identifier: Apache-2.0
   Random draws: as functions of a counter, or as MXNet's own generators give them. */

/* Philox 4x32-10 (Salmon, Moraes, Dror, Shaw: Parallel random numbers, 2011): sixteen blocks side by side. The draws
   of a step depend on seed, step, instruction and position alone, however steps are put together. */
#define BLOCKS 16
#define PHILOX NAME(philox)
static void PHILOX(uint32_t words[4][BLOCKS], uint64_t seed, uint64_t step, uint32_t stream, uint32_t first) {
    IVDEP for (int l = 0; l < BLOCKS; l++) {
        uint32_t a = first + (uint32_t)l, b = stream, c = (uint32_t)step, d = (uint32_t)(step >> 32);
        uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
        for (int round = 0; round < 10; round++) {
            uint64_t p = (uint64_t)0xD2511F53u * a, q = (uint64_t)0xCD9E8D57u * c;
            uint32_t next_a = (uint32_t)(q >> 32) ^ b ^ k0, next_c = (uint32_t)(p >> 32) ^ d ^ k1;
            b = (uint32_t)q; d = (uint32_t)p; a = next_a; c = next_c;
            k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
        }
        words[0][l] = a; words[1][l] = b; words[2][l] = c; words[3][l] = d;
    }
}

/* Normals by Box and Muller's transformation of two words. */
static void NAME(counter_normals)(T *restrict out, int64_t count, uint64_t seed, uint64_t step, uint32_t stream, T mean, T sd) {
    for (int64_t begin = 0; begin < count; begin += 4 * BLOCKS) {
        uint32_t words[4][BLOCKS];
        float z[4][BLOCKS];
        PHILOX(words, seed, step, stream, (uint32_t)(begin / 4));
        for (int h = 0; h < 4; h += 2)
            IVDEP for (int l = 0; l < BLOCKS; l++) {
                float u = ((float)(int32_t)(words[h][l] >> 8) + 0.5f) * 0x1p-24f;
                float radius = sqrtf(-2.0f * log_float(u));
                /* the angle in turns, from -1/2 to 1/2, then within an eighth of a turn */
                float turn = (float)(int32_t)words[h + 1][l] * 0x1p-32f, n = __builtin_rintf(turn * 4.0f);
                float x = (turn - n * 0.25f) * 6.28318530718f, y = x * x;
                float sine = x * (1.0f + y * (-1.6666654611e-1f + y * (8.3321608736e-3f - 1.9515295891e-4f * y)));
                float cosine = 1.0f + y * (-0.5f + y * (4.166664568e-2f + y * (-1.388731625e-3f + 2.443315712e-5f * y)));
                int32_t quarter = (int32_t)n;
                float s = quarter & 1 ? cosine : sine, c = quarter & 1 ? sine : cosine;
                z[h][l] = radius * ((quarter + 1) & 2 ? -c : c);
                z[h + 1][l] = radius * (quarter & 2 ? -s : s);
            }
        int64_t rest = count - begin < 4 * BLOCKS ? count - begin : 4 * BLOCKS;
        const float *flat = &z[0][0];
        IVDEP for (int64_t i = 0; i < rest; i++) out[begin + i] = mean + sd * (T)flat[i];
    }
}

static void NAME(counter_uniforms)(T *restrict out, int64_t count, uint64_t seed, uint64_t step, uint32_t stream, T low, T width) {
    for (int64_t begin = 0; begin < count; begin += 4 * BLOCKS) {
        uint32_t words[4][BLOCKS];
        PHILOX(words, seed, step, stream, (uint32_t)(begin / 4));
        int64_t rest = count - begin < 4 * BLOCKS ? count - begin : 4 * BLOCKS;
        const uint32_t *flat = &words[0][0];
        IVDEP for (int64_t i = 0; i < rest; i++) out[begin + i] = low + width * (T)(int32_t)(flat[i] >> 8) * (T)0x1p-24;
    }
}
#undef PHILOX

/* MXNet's generators: one for each 64 draws, 1024 at most, each a std::mt19937, whose words have 64 bits in libstdc++. */
#ifndef MVN_STREAMS
#define MVN_STREAMS
typedef struct { uint64_t x[624]; uint64_t position; } generator;
enum { GENERATORS = 1024, DRAWS_OF_GENERATOR = 64 };
INLINE uint64_t twisted(const uint64_t *x, int k, int next, int far) {
    uint64_t y = (x[k] & 0x80000000u) | (x[next] & 0x7fffffffu);
    return x[far] ^ (y >> 1) ^ (y & 1 ? 0x9908b0dfu : 0);
}
static inline void twist(generator *g) {
    for (int k = 0; k < 227; k++) g->x[k] = twisted(g->x, k, k + 1, k + 397);
    for (int k = 227; k < 623; k++) g->x[k] = twisted(g->x, k, k + 1, k - 227);
    g->x[623] = twisted(g->x, 623, 0, 396);
    g->position = 0;
}
static inline void take_words(generator *g, uint32_t *restrict to, int64_t count) {
    while (count) {
        if (g->position >= 624) twist(g);
        int64_t n = 624 - (int64_t)g->position < count ? 624 - (int64_t)g->position : count;
        const uint64_t *x = g->x + g->position;
        IVDEP for (int64_t i = 0; i < n; i++) {
            uint32_t z = (uint32_t)x[i];
            z ^= z >> 11; z ^= (z << 7) & 0x9d2c5680u; z ^= (z << 15) & 0xefc60000u; z ^= z >> 18;
            to[i] = z;
        }
        g->position += (uint64_t)n; to += n; count -= n;
    }
}
#endif
/* std::generate_canonical of libstdc++, for at most two normals from each draw of a generator. */
static void NAME(canonicals)(generator *g, T *restrict to, int count) {
    uint32_t words[4 * DRAWS_OF_GENERATOR];
    const T largest = IS_FLOAT ? (T)0x1.fffffep-1 : (T)0x1.fffffffffffffp-1;
    take_words(g, words, IS_FLOAT ? count : 2 * count);
    if (IS_FLOAT) IVDEP for (int i = 0; i < count; i++) { T r = (T)words[i] / (T)4294967296.0; to[i] = r < 1 ? r : largest; }
    else IVDEP for (int i = 0; i < count; i++) {
        T r = (T)(((double)words[2 * i] + words[2 * i + 1] * 4294967296.0) / 18446744073709551616.0);
        to[i] = r < 1 ? r : largest;
    }
}
/* std::normal_distribution of libstdc++: the polar method, of which each call is the first. A try takes two numbers whatever
   comes of it, so that as many tries are made together as normals are missing. MXNet's is built without fused
   multiplications, which would round otherwise. */
NOT_FUSED static int NAME(try_normals)(generator *g, T *restrict out, int count, T mean, T sd) {
    BODY_NOT_FUSED
    T u[2 * DRAWS_OF_GENERATOR], y[DRAWS_OF_GENERATOR], r[DRAWS_OF_GENERATOR], logs[DRAWS_OF_GENERATOR];
    int kept = 0;
    NAME(canonicals)(g, u, 2 * count);
    IVDEP for (int i = 0; i < count; i++) {
        T x = 2 * u[2 * i] - 1;
        y[i] = 2 * u[2 * i + 1] - 1;
        r[i] = x * x + y[i] * y[i];
    }
    for (int i = 0; i < count; i++) {
        T square = r[i];
        y[kept] = y[i]; r[kept] = square;
        kept += !(square > 1 || square == 0);
    }
    for (int i = 0; i < kept; i++) logs[i] = IS_FLOAT ? (T)logf((float)r[i]) : (T)(log)(r[i]);
    IVDEP for (int i = 0; i < kept; i++) out[i] = y[i] * sqrt(-2 * logs[i] / r[i]) * sd + mean;
    return kept;
}
NOT_FUSED static void NAME(stream_draws)(T *restrict out, int64_t count, generator *streams, int is_normal, T first, T second) {
    BODY_NOT_FUSED
    int64_t used = (count + DRAWS_OF_GENERATOR - 1) / DRAWS_OF_GENERATOR;
    if (used > GENERATORS) used = GENERATORS;
    if (used < 1) used = 1;
    int64_t share = (count + used - 1) / used;
    const T width = (T)((float)second - (float)first);  /* MXNet computes it in single precision */
    for (int64_t t = 0; t < used; t++) {
        int64_t i = t * share, end = i + share < count ? i + share : count;
        while (i < end) {
            int n = end - i < DRAWS_OF_GENERATOR ? (int)(end - i) : DRAWS_OF_GENERATOR;
            if (is_normal) { i += NAME(try_normals)(streams + t, out + i, n, first, second); continue; }
            NAME(canonicals)(streams + t, out + i, n);
            for (int l = 0; l < n; l++) out[i + l] = first + width * out[i + l];
            i += n;
        }
    }
}
