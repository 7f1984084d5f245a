// The delta rule's forward pass with products in bfloat16 and sums in float32.
//
// For inference on bfloat16 operands: what each product reads is rounded, the state that
// is carried from chunk to chunk is not. Two factors share 32 bits, as the instruction
// wants them: neighbouring keys where the state is read, neighbouring tokens where it is
// written.
#pragma once

#include "delta_rule.h"

#if defined(__AVX512BF16__)

namespace crossdna {
namespace {

typedef int32_t Pair;

// The upper halves of two numbers of 32 bits, rounded, `odd` above `even`.
inline Vec join(Vec even, Vec odd) {
  typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
  const Bits low = (Bits)((IntVec)even + 0x8000), high = (Bits)((IntVec)odd + 0x8000);
  return (Vec)((low >> 16) | (high & 0xffff0000u));
}

inline Vec multiply_add(Vec sum, Pair a, Vec b) {
  return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(a),
                               (__m512bh)(__m512)b);
}

// One register tile of C = keep C + A B; A (rows, pairs), or (pairs, rows) when
// TRANSPOSED, B (pairs, columns). With `packed`, C's rows are also kept in pairs there.
template <bool TRANSPOSED, int ROWS, int VECTORS>
inline void pair_tile(int64_t pairs, const Pair* a, int64_t lda, const float* b,
                      int64_t ldb, float* c, int64_t ldc, float keep, float* packed) {
  Vec acc[ROWS][VECTORS];
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j)
      acc[r][j] = keep == 0.0f ? Vec{} : load(c + r * ldc + j * WIDTH) * keep;
  for (int64_t k = 0; k < pairs; ++k) {
    Vec row[VECTORS];
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) row[j] = load(b + k * ldb + j * WIDTH);
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; ++r) {
      const Pair x = TRANSPOSED ? a[k * lda + r] : a[r * lda + k];
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j) acc[r][j] = multiply_add(acc[r][j], x, row[j]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int j = 0; j < VECTORS; ++j) store(c + r * ldc + j * WIDTH, acc[r][j]);
  if (packed)
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r += 2)
#pragma GCC unroll 4
      for (int j = 0; j < VECTORS; ++j)
        store(packed + r / 2 * ldc + j * WIDTH, join(acc[r][j], acc[r + 1][j]));
}

// C = keep C + A B with all rows of A; `rows` and `columns` are multiples of PAD.
template <bool TRANSPOSED = false>
inline void pair_product(int64_t rows, int64_t columns, int64_t pairs, const Pair* a,
                         int64_t lda, const float* b, int64_t ldb, float* c,
                         int64_t ldc, float keep = 0.0f, float* packed = nullptr) {
  int64_t j = 0;
  for (; j + 4 * WIDTH <= columns; j += 4 * WIDTH)
    for (int64_t i = 0; i < rows; i += 4)
      pair_tile<TRANSPOSED, 4, 4>(pairs, a + (TRANSPOSED ? i : i * lda), lda, b + j, ldb,
                                  c + i * ldc + j, ldc, keep,
                                  packed ? packed + i / 2 * ldc + j : nullptr);
  for (; j < columns; j += WIDTH)
    for (int64_t i = 0; i < rows; i += 16)
      pair_tile<TRANSPOSED, 16, 1>(pairs, a + (TRANSPOSED ? i : i * lda), lda, b + j,
                                   ldb, c + i * ldc + j, ldc, keep,
                                   packed ? packed + i / 2 * ldc + j : nullptr);
}

// What a chunk has besides, all in pairs; sizes in floats.
struct PairedChunk {
  float* rows;     // (2 CHUNK, keys / 2) k and q: pairs of keys
  float* turned;   // (keys / 2, CHUNK) k: pairs of keys
  float* tokens;   // (CHUNK / 2, keys) k: pairs of tokens
  float* weights;  // (CHUNK, CHUNK / 2) A: pairs of tokens
  float* u;        // (CHUNK / 2, values) u: pairs of tokens
  float* state;    // (keys / 2, values) S: pairs of keys

  PairedChunk(Scratch& s, int64_t keys, int64_t values) {
    rows = s.take(CHUNK * keys);
    turned = s.take(CHUNK * padded(keys / 2));
    tokens = s.take(CHUNK * keys / 2);
    weights = s.take(CHUNK * CHUNK / 2);
    u = s.take(CHUNK * values / 2);
    state = s.take(keys * values / 2);
  }
  static int64_t floats(int64_t keys, int64_t values) {
    return CHUNK * (3 * keys / 2 + padded(keys / 2) + CHUNK / 2 + values / 2) +
           keys * values / 2;
  }
};

inline const Pair* pairs(const float* x) { return reinterpret_cast<const Pair*>(x); }

inline void pack_state(int64_t kp, int64_t vp, const float* state, float* packed) {
  for (int64_t d = 0; d < kp; d += 2)
    for (int64_t j = 0; j < vp; j += WIDTH)
      store(packed + d / 2 * vp + j,
            join(load(state + d * vp + j), load(state + (d + 1) * vp + j)));
}

// Normalises the tokens and packs them; k and q themselves are left as they were read.
inline void pack_tokens(int64_t kp, int64_t keys, const Chunk& c, PairedChunk& w) {
  auto* rows = reinterpret_cast<bfloat16*>(w.rows);
  const float width_scale = 1.0f / std::sqrt(static_cast<float>(keys));
  for (int64_t i = 0; i < CHUNK; i += 2)
    for (int64_t d = 0; d < kp; d += WIDTH) {
      const Vec even = load(c.k + i * kp + d) * c.k_scale[i];
      const Vec odd = load(c.k + (i + 1) * kp + d) * c.k_scale[i + 1];
      store_narrow(even, rows + i * kp + d);
      store_narrow(odd, rows + (i + 1) * kp + d);
      store(w.tokens + i / 2 * kp + d, join(even, odd));
    }
  for (int64_t i = 0; i < CHUNK; ++i)
    for (int64_t d = 0; d < kp; d += WIDTH)
      store_narrow(load(c.q + i * kp + d) * (c.q_scale[i] * width_scale),
                   rows + (CHUNK + i) * kp + d);
}

// u, times a factor for each token if asked, in pairs of tokens.
template <bool SCALED>
inline void pack_vectors(int64_t vp, const Chunk& c, float* packed) {
  for (int64_t i = 0; i < CHUNK; i += 2)
    for (int64_t j = 0; j < vp; j += WIDTH) {
      Vec even = load(c.u + i * vp + j), odd = load(c.u + (i + 1) * vp + j);
      if (SCALED) even *= c.until[i], odd *= c.until[i + 1];
      store(packed + i / 2 * vp + j, join(even, odd));
    }
}

// Inner products of the tokens and their decays.
inline void prepare_pairs(int64_t kp, int64_t keys, Chunk& c, PairedChunk& w) {
  pack_tokens(kp, keys, c, w);
  // A narrow row is read beyond its end; what that fills is never read.
  transpose(CHUNK, padded(kp / 2), w.rows, kp / 2, w.turned, CHUNK);
  pair_product(2 * CHUNK, CHUNK, kp / 2, pairs(w.rows), kp / 2, w.turned, CHUNK, c.kk,
               CHUNK);
  decays(c);
}

// The rest of a chunk: outputs into qs, the state and its pairs brought up to date.
inline void advance_pairs(int64_t kp, int64_t vp, float* state, Chunk& c,
                          PairedChunk& w) {
  pair_product(2 * CHUNK, vp, kp / 2, pairs(w.rows), kp / 2, w.state, vp, c.xs, vp);
  find_vectors(vp, c);
  attention(c);
  auto* weights = reinterpret_cast<bfloat16*>(w.weights);
  for (int i = 0; i < CHUNK * CHUNK; i += WIDTH)
    store_narrow(load(c.qk + i), weights + i);
  for (int i = 0; i < CHUNK; ++i) scale_row(vp, c.qs + i * vp, c.after[i]);
  pack_vectors<false>(vp, c, w.u);
  pair_product(CHUNK, vp, CHUNK / 2, pairs(w.weights), CHUNK / 2, w.u, vp, c.qs, vp,
               1.0f);
  pack_vectors<true>(vp, c, w.u);
  pair_product<true>(kp, vp, CHUNK / 2, pairs(w.tokens), kp, w.u, vp, state, vp,
                     c.after[CHUNK - 1], w.state);
}

}  // namespace
}  // namespace crossdna

#endif
