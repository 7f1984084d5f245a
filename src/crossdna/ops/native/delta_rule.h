// The gated delta rule of ops/delta_rule, forward and backward.
//
// One task is one head of one sequence: its state stays in the L1 cache while chunks of
// 16 tokens pass. Within a chunk (rows are tokens; k, q normalised; p = r k):
//   D_ij = exp(g_j+1 + .. + g_i),  E_i = exp(g_1 + .. + g_i),  E'_i = E_(i-1),
//   F_i = D_last,i
//   X = V - diag(r E') K S            u before the correction inside the chunk
//   M_ij = beta_i r_i (k_i . k_j) D_(i-1),j  for j < i
//   (I + M) U = diag(beta) X          solved by forward substitution
//   O = diag(E) Q S + A U,  A_ij = (q_i . k_j) D_ij  for j <= i
//   S <- E_last S + K^T diag(F) U
#pragma once

#include "common.h"

namespace crossdna {
namespace {

constexpr int CHUNK = 16;
constexpr int SEGMENT = 128;
constexpr float EPSILON = 1e-6f;

// Where the operands lie: strides in elements over (batch, length, heads).
struct Strides {
  int64_t batch, length, head;
  int64_t at(int64_t b, int64_t t, int64_t h) const {
    return b * batch + t * length + h * head;
  }
};

struct Problem {
  int64_t batch, length, heads, keys, values;
  const void *q, *k, *v;
  const float *log_decay, *beta, *feedback, *correction;
  Strides qs, ks, vs, gs, bs, fs, cs;
};

// A chunk: tokens [start, start + count) of head h of sequence b.
struct Place {
  int64_t b, h, start, count;
  // The index of token i in (batch, length, heads).
  int64_t token(const Problem& p, int64_t i) const {
    return (b * p.length + start + i) * p.heads + h;
  }
};

inline Place place(int64_t b, int64_t h, int64_t start, int64_t end) {
  return {b, h, start, end - start < CHUNK ? end - start : CHUNK};
}

// Everything about the 16 tokens of a chunk that does not depend on the state.
struct Chunk {
  float* k;     // (CHUNK, keys) normalised
  float* q;     // (CHUNK, keys) normalised and scaled; follows k directly
  float* v;     // (CHUNK, values)
  float* kt;    // (keys, CHUNK)
  float* kk;    // (CHUNK, CHUNK) k_i . k_j
  float* qk;    // (CHUNK, CHUNK) q_i . k_j; follows kk directly
  float* pair;  // (CHUNK, CHUNK) D_ij, zero above the diagonal
  float* xs;    // (CHUNK, values) X, then diag(beta) X
  float* qs;    // (CHUNK, values) Q S; follows xs directly
  float* u;     // (CHUNK, values)
  float beta[CHUNK], log_decay[CHUNK], r[CHUNK];
  float before[CHUNK], after[CHUNK], until[CHUNK];  // E', E, F
  float k_scale[CHUNK], q_scale[CHUNK], k_square[CHUNK], feedback[CHUNK];
  float correction[CHUNK];

  Chunk(Scratch& s, int64_t keys, int64_t values) {
    k = s.take(2 * CHUNK * keys);
    q = k + CHUNK * keys;
    v = s.take(CHUNK * values);
    kt = s.take(keys * CHUNK);
    kk = s.take(2 * CHUNK * CHUNK);
    qk = kk + CHUNK * CHUNK;
    pair = s.take(CHUNK * CHUNK);
    xs = s.take(2 * CHUNK * values);
    qs = xs + CHUNK * values;
    u = s.take(CHUNK * values);
  }
  static int64_t floats(int64_t keys, int64_t values) {
    return CHUNK * (3 * keys + 4 * values + 3 * CHUNK);
  }
};

inline float dot(int64_t n, const float* a, const float* b) {
  Vec total{};
  for (int64_t i = 0; i < n; i += WIDTH) total += load(a + i) * load(b + i);
  return sum(total);
}

inline void scale_row(int64_t n, float* x, float s) {
  for (int64_t i = 0; i < n; i += WIDTH) store(x + i, load(x + i) * s);
}

inline void add_scaled(int64_t n, float* x, const float* y, float s) {
  for (int64_t i = 0; i < n; i += WIDTH) store(x + i, load(x + i) + load(y + i) * s);
}

template <typename T>
void prefetch_row(const T* row, int64_t count) {
  const char* from = reinterpret_cast<const char*>(row);
  for (int64_t at = 0; at < count * static_cast<int64_t>(sizeof(T)); at += 64)
    __builtin_prefetch(from + at);
}

// Reads the tokens of a chunk, subtracts the correction from q, and leaves
// the squared lengths of k and q; the rows beyond are zero.
template <typename T>
void read_tokens(const Problem& p, const Place& at, int64_t kp, int64_t vp, Chunk& c) {
  const int64_t b = at.b, h = at.h;
  const T* q = static_cast<const T*>(p.q);
  const T* k = static_cast<const T*>(p.k);
  const T* v = static_cast<const T*>(p.v);
  for (int64_t i = 0; i < CHUNK; ++i) {
    const bool here = i < at.count;
    const int64_t t = at.start + i;
    // The rows of one head lie far apart: the hardware does not foresee the next ones.
    if (t + CHUNK < p.length) {
      prefetch_row(k + p.ks.at(b, t + CHUNK, h), p.keys);
      prefetch_row(q + p.qs.at(b, t + CHUNK, h), p.keys);
      prefetch_row(v + p.vs.at(b, t + CHUNK, h), p.values);
    }
    float* kc = c.k + i * kp;
    float* qc = c.q + i * kp;
    read_row(k + (here ? p.ks.at(b, t, h) : 0), here ? p.keys : 0, kp, kc);
    read_row(q + (here ? p.qs.at(b, t, h) : 0), here ? p.keys : 0, kp, qc);
    read_row(v + (here ? p.vs.at(b, t, h) : 0), here ? p.values : 0, vp, c.v + i * vp);
    c.feedback[i] = here ? p.feedback[p.fs.at(b, t, h)] : 0.0f;
    c.correction[i] = here ? p.correction[p.cs.at(b, t, h)] : 0.0f;
    c.beta[i] = here ? p.beta[p.bs.at(b, t, h)] : 0.0f;
    c.log_decay[i] = here ? p.log_decay[p.gs.at(b, t, h)] : 0.0f;
    const float mixed = c.feedback[i] * c.correction[i];
    Vec k2{}, q2{};
    for (int64_t d = 0; d < kp; d += WIDTH) {
      const Vec x = load(kc + d), y = load(qc + d) - mixed * x;
      k2 += x * x;
      q2 += y * y;
      store(qc + d, y);
    }
    c.k_square[i] = sum(k2);
    c.q_scale[i] = sum(q2);
  }
}

// What normalises k and q, from their squared lengths.
inline void scales(Chunk& c) {
  for (int i = 0; i < CHUNK; ++i) {
    const float k2 = c.k_square[i], fed = c.feedback[i] * c.feedback[i] * k2 + EPSILON;
    c.k_scale[i] = 1.0f / std::sqrt(k2 + EPSILON);
    c.q_scale[i] = 1.0f / std::sqrt(c.q_scale[i] + EPSILON);
    // p = r k: both are the same direction, their epsilons differ.
    c.r[i] = c.feedback[i] * std::sqrt((k2 + EPSILON) / fed);
  }
}

// Reads and normalises the tokens of a chunk; the rows beyond are zero, write nothing and
// forget nothing.
template <typename T>
void read_chunk(const Problem& p, const Place& at, int64_t kp, int64_t vp, Chunk& c) {
  read_tokens<T>(p, at, kp, vp, c);
  scales(c);
  const float width_scale = 1.0f / std::sqrt(static_cast<float>(p.keys));
  for (int64_t i = 0; i < at.count; ++i) {
    scale_row(kp, c.k + i * kp, c.k_scale[i]);
    scale_row(kp, c.q + i * kp, c.q_scale[i] * width_scale);
  }
}

inline void decays(Chunk& c) {
  float decay[CHUNK], total = 0.0f;
  for (int i = 0; i < CHUNK; ++i) c.after[i] = total += c.log_decay[i];
  // From sums, not from products of the single decays: their roundings would add up
  // over the length of a sequence. Within the chunk below they cannot.
  const float last = std::exp(total);
  for (int i = 0; i < CHUNK; i += WIDTH) {
    store(decay + i, exp_fast(load(c.log_decay + i)));
    store(c.after + i, exp_fast(load(c.after + i)));
  }
  c.after[CHUNK - 1] = last;
  c.before[0] = 1.0f;
  std::memcpy(c.before + 1, c.after, (CHUNK - 1) * 4);
  std::memset(c.pair, 0, CHUNK * CHUNK * 4);
  c.pair[0] = 1.0f;
  for (int i = 1; i < CHUNK; ++i) {
    float* row = c.pair + i * CHUNK;
    for (int j = 0; j < CHUNK; j += WIDTH)
      store(row + j, load(row - CHUNK + j) * decay[i]);
    row[i] = 1.0f;
  }
  std::memcpy(c.until, c.pair + (CHUNK - 1) * CHUNK, CHUNK * 4);
}

// Fills what follows from the tokens: inner products and decays.
inline void prepare(int64_t kp, Chunk& c) {
  transpose(CHUNK, kp, c.k, kp, c.kt, CHUNK);
  product(2 * CHUNK, CHUNK, kp, c.k, kp, c.kt, CHUNK, c.kk, CHUNK);
  decays(c);
}

// M; D_(i-1) is zero from its column i on, which leaves the strict lower triangle.
inline void coupling(const Chunk& c, float (*m)[CHUNK]) {
  for (int j = 0; j < CHUNK; ++j) m[0][j] = 0.0f;
  for (int i = 1; i < CHUNK; ++i)
    for (int j = 0; j < CHUNK; j += WIDTH)
      store(m[i] + j, load(c.kk + i * CHUNK + j) * load(c.pair + (i - 1) * CHUNK + j) *
                          (c.beta[i] * c.r[i]));
}

// Solves (I + M) U = B, or (I + M)^T U = B, for VECTORS columns at once.
template <bool TRANSPOSED>
void solve(int64_t vp, const float (*m)[CHUNK], const float* b, float* u) {
  for (int64_t j = 0; j < vp; j += WIDTH) {
    Vec x[CHUNK];
#pragma GCC unroll 16
    for (int i = 0; i < CHUNK; ++i) x[i] = load(b + i * vp + j);
    if (!TRANSPOSED) {
#pragma GCC unroll 16
      for (int s = 0; s < CHUNK; ++s)
#pragma GCC unroll 16
        for (int i = s + 1; i < CHUNK; ++i) x[i] -= m[i][s] * x[s];
    } else {
#pragma GCC unroll 16
      for (int s = CHUNK - 1; s > 0; --s)
#pragma GCC unroll 16
        for (int i = 0; i < s; ++i) x[i] -= m[s][i] * x[s];
    }
#pragma GCC unroll 16
    for (int i = 0; i < CHUNK; ++i) store(u + i * vp + j, x[i]);
  }
}

// Finds U from K S in xs; leaves X there.
inline void find_vectors(int64_t vp, Chunk& c) {
  float m[CHUNK][CHUNK];
  for (int i = 0; i < CHUNK; ++i) {
    const float read = c.r[i] * c.before[i];
    for (int64_t j = 0; j < vp; j += WIDTH) {
      const Vec x = load(c.v + i * vp + j) - load(c.xs + i * vp + j) * read;
      store(c.xs + i * vp + j, x);
      store(c.u + i * vp + j, x * c.beta[i]);
    }
  }
  coupling(c, m);
  solve<false>(vp, m, c.u, c.u);
}

// Finds U from the state at the chunk's start; leaves X in xs and, if asked, Q S in qs.
template <bool WITH_QUERIES>
void write_vectors(int64_t kp, int64_t vp, const float* state, Chunk& c) {
  product((WITH_QUERIES ? 2 : 1) * CHUNK, vp, kp, c.k, kp, state, vp, c.xs, vp);
  find_vectors(vp, c);
}

// Turns q_i . k_j into A.
inline void attention(Chunk& c) {
  for (int64_t i = 0; i < CHUNK * CHUNK; i += WIDTH)
    store(c.qk + i, load(c.qk + i) * load(c.pair + i));
}

inline void advance(int64_t kp, int64_t vp, Chunk& c, float* state) {
  for (int64_t d = 0; d < kp; ++d)
    for (int j = 0; j < CHUNK; j += WIDTH)
      store(c.kt + d * CHUNK + j, load(c.kt + d * CHUNK + j) * load(c.until + j));
  // keep = 0 would skip reading the state, which is what a full decay means as well.
  product(kp, vp, CHUNK, c.kt, CHUNK, c.u, vp, state, vp, c.after[CHUNK - 1]);
}

// Clears what fills the state up too: a NaN there would reach the next head.
inline void load_state(const Problem& p, const float* from, int64_t vp, float* state) {
  std::memset(state, 0, padded(p.keys) * vp * 4);
  for (int64_t d = 0; d < p.keys; ++d)
    std::memcpy(state + d * vp, from + d * p.values, p.values * 4);
}

inline void save_state(const Problem& p, const float* state, int64_t vp, float* to) {
  for (int64_t d = 0; d < p.keys; ++d)
    std::memcpy(to + d * p.values, state + d * vp, p.values * 4);
}

// sizes: batch, length, heads, keys, values; strides: three per operand, in order.
inline Problem problem(const int64_t* sizes, const int64_t* strides, const void* const* x) {
  Problem p;
  p.batch = sizes[0], p.length = sizes[1], p.heads = sizes[2];
  p.keys = sizes[3], p.values = sizes[4];
  p.q = x[0], p.k = x[1], p.v = x[2];
  p.log_decay = static_cast<const float*>(x[3]);
  p.beta = static_cast<const float*>(x[4]);
  p.feedback = static_cast<const float*>(x[5]);
  p.correction = static_cast<const float*>(x[6]);
  Strides* all[] = {&p.qs, &p.ks, &p.vs, &p.gs, &p.bs, &p.fs, &p.cs};
  for (int i = 0; i < 7; ++i)
    *all[i] = Strides{strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]};
  return p;
}

}  // namespace
}  // namespace crossdna
