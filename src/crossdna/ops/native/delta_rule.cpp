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
// The backward pass differentiates these lines from the last to the first; the states at
// chunk starts are recomputed from one state saved every SEGMENT tokens.
#include "common.h"

#include <vector>

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

// Reads the tokens [start, start + count), subtracts the correction from q, and leaves
// the squared lengths of k and q; the rows beyond are zero.
template <typename T>
void read_tokens(const Problem& p, int64_t b, int64_t h, int64_t start, int64_t count,
                 int64_t kp, int64_t vp, Chunk& c) {
  const T* q = static_cast<const T*>(p.q);
  const T* k = static_cast<const T*>(p.k);
  const T* v = static_cast<const T*>(p.v);
  for (int64_t i = 0; i < CHUNK; ++i) {
    const bool here = i < count;
    const int64_t t = start + i;
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

// Reads and normalises the tokens [start, start + count); the rows beyond are zero, write
// nothing and forget nothing.
template <typename T>
void read_chunk(const Problem& p, int64_t b, int64_t h, int64_t start, int64_t count,
                int64_t kp, int64_t vp, Chunk& c) {
  read_tokens<T>(p, b, h, start, count, kp, vp, c);
  const float width_scale = 1.0f / std::sqrt(static_cast<float>(p.keys));
  for (int i = 0; i < CHUNK; ++i) {
    const float k2 = c.k_square[i], fed = c.feedback[i] * c.feedback[i] * k2 + EPSILON;
    c.k_scale[i] = 1.0f / std::sqrt(k2 + EPSILON);
    c.q_scale[i] = 1.0f / std::sqrt(c.q_scale[i] + EPSILON);
    // p = r k: both are the same direction, their epsilons differ.
    c.r[i] = c.feedback[i] * std::sqrt((k2 + EPSILON) / fed);
  }
  for (int64_t i = 0; i < count; ++i) {
    scale_row(kp, c.k + i * kp, c.k_scale[i]);
    scale_row(kp, c.q + i * kp, c.q_scale[i] * width_scale);
  }
}

// Fills what follows from the tokens: inner products and decays.
void prepare(int64_t kp, Chunk& c) {
  transpose(CHUNK, kp, c.k, kp, c.kt, CHUNK);
  product(2 * CHUNK, CHUNK, kp, c.k, kp, c.kt, CHUNK, c.kk, CHUNK);
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

// M; D_(i-1) is zero from its column i on, which leaves the strict lower triangle.
void coupling(const Chunk& c, float (*m)[CHUNK]) {
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

// Finds U from the state at the chunk's start; leaves X in xs and, if asked, Q S in qs.
template <bool WITH_QUERIES>
void write_vectors(int64_t kp, int64_t vp, const float* state, Chunk& c) {
  product((WITH_QUERIES ? 2 : 1) * CHUNK, vp, kp, c.k, kp, state, vp, c.xs, vp);
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

void advance(int64_t kp, int64_t vp, Chunk& c, float* state) {
  for (int64_t d = 0; d < kp; ++d)
    for (int j = 0; j < CHUNK; j += WIDTH)
      store(c.kt + d * CHUNK + j, load(c.kt + d * CHUNK + j) * load(c.until + j));
  // keep = 0 would skip reading the state, which is what a full decay means as well.
  product(kp, vp, CHUNK, c.kt, CHUNK, c.u, vp, state, vp, c.after[CHUNK - 1]);
}

void load_state(const Problem& p, const float* from, int64_t vp, float* state) {
  for (int64_t d = 0; d < p.keys; ++d)
    std::memcpy(state + d * vp, from + d * p.values, p.values * 4);
}

void save_state(const Problem& p, const float* state, int64_t vp, float* to) {
  for (int64_t d = 0; d < p.keys; ++d)
    std::memcpy(to + d * p.values, state + d * vp, p.values * 4);
}

template <typename T>
void forward_head(const Problem& p, int64_t b, int64_t h, const float* initial,
                  T* output, float* final_state, float* saved, float* state, Chunk& c) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  const int64_t item = b * p.heads + h, size = p.keys * p.values;
  const int64_t segments = (p.length + SEGMENT - 1) / SEGMENT;
  load_state(p, initial + item * size, vp, state);
  for (int64_t start = 0; start < p.length; start += CHUNK) {
    const int64_t count = p.length - start < CHUNK ? p.length - start : CHUNK;
    if (saved && start % SEGMENT == 0)
      save_state(p, state, vp, saved + (item * segments + start / SEGMENT) * size);
    read_chunk<T>(p, b, h, start, count, kp, vp, c);
    prepare(kp, c);
    write_vectors<true>(kp, vp, state, c);
    for (int i = 0; i < CHUNK; ++i) {
      scale_row(vp, c.qs + i * vp, c.after[i]);
      for (int j = 0; j < CHUNK; j += WIDTH)
        store(c.qk + i * CHUNK + j,
              load(c.qk + i * CHUNK + j) * load(c.pair + i * CHUNK + j));
    }
    product(CHUNK, vp, CHUNK, c.qk, CHUNK, c.u, vp, c.qs, vp, 1.0f);
    for (int64_t i = 0; i < count; ++i) {
      T* row = output + ((b * p.length + start + i) * p.heads + h) * p.values;
      write_row(c.qs + i * vp, p.values, row);
    }
    advance(kp, vp, c, state);
  }
  save_state(p, state, vp, final_state + item * size);
}

template <typename T>
void forward(const Problem& p, const float* initial, T* output, float* final_state,
             float* saved, int threads) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(kp * vp + Chunk::floats(kp, vp));
    float* state = scratch.take(kp * vp);
    Chunk chunk(scratch, kp, vp);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < p.batch * p.heads; ++item)
      forward_head<T>(p, item / p.heads, item % p.heads, initial, output, final_state,
                      saved, state, chunk);
  }
}

// Where the gradients go: contiguous, float32.
struct Gradients {
  float *q, *k, *v, *log_decay, *beta, *feedback, *correction, *initial_state;
};

struct BackwardScratch {
  float *states, *grad, *turned, *d_out, *d_r, *back, *du, *inner, *from_state;
  std::vector<Chunk> chunks;  // of a segment
  BackwardScratch(Scratch& s, int64_t kp, int64_t vp) {
    for (int n = 0; n < SEGMENT / CHUNK; ++n) chunks.emplace_back(s, kp, vp);
    states = s.take((SEGMENT / CHUNK) * kp * vp);
    grad = s.take(kp * vp);    // dS
    turned = s.take(kp * vp);  // S^T, then dS^T
    d_out = s.take(2 * CHUNK * vp);
    d_r = d_out + CHUNK * vp;
    back = s.take(2 * CHUNK * kp);
    du = s.take(CHUNK * vp);
    inner = s.take(2 * CHUNK * CHUNK);
    from_state = s.take(CHUNK * (kp > vp ? kp : vp));
  }
  static int64_t floats(int64_t kp, int64_t vp) {
    return SEGMENT / CHUNK * (Chunk::floats(kp, vp) + kp * vp) + 2 * kp * vp +
           CHUNK * (4 * vp + 3 * kp + 2 * CHUNK);
  }
};

// Sends the gradients of the normalised q, k and of r back to the operands.
void write_gradients(const Problem& p, int64_t b, int64_t h, int64_t start,
                     int64_t count, const Chunk& c, float* dq, float* dk,
                     const float* dr, Gradients& g) {
  const int64_t kp = padded(p.keys);
  const float width_scale = 1.0f / std::sqrt(static_cast<float>(p.keys));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t token = (b * p.length + start + i) * p.heads + h;
    const float *k = c.k + i * kp, *q = c.q + i * kp;
    float *dqi = dq + i * kp, *dki = dk + i * kp;
    const float s = c.k_scale[i], n = c.k_square[i], fb = c.feedback[i];
    // q = width_scale q_scale raw: along raw itself only epsilon is left of dq.
    const float along_q = dot(kp, q, dqi) * c.q_scale[i] / width_scale;
    for (int64_t d = 0; d < kp; d += WIDTH)
      store(dqi + d, load(dqi + d) * (width_scale * c.q_scale[i]) -
                         load(q + d) * along_q);
    const float fed = fb * fb * n + EPSILON;
    const float root = std::sqrt((n + EPSILON) / fed);
    const float d_square =
        dr[i] * 0.5f * fb * root * EPSILON * (1.0f - fb * fb) / ((n + EPSILON) * fed);
    const float along_k = dot(kp, k, dki) * s - 2.0f * d_square / s;
    const float mixed = fb * c.correction[i];
    const float d_mixed = -dot(kp, dqi, k) / s;
    for (int64_t d = 0; d < kp; d += WIDTH)
      store(dki + d, load(dki + d) * s - load(k + d) * along_k - load(dqi + d) * mixed);
    std::memcpy(g.q + token * p.keys, dqi, p.keys * 4);
    std::memcpy(g.k + token * p.keys, dki, p.keys * 4);
    g.correction[token] = d_mixed * fb;
    g.feedback[token] = d_mixed * c.correction[i] + dr[i] * root * EPSILON / fed;
  }
}

// One chunk, given its state (turned into S^T on the way) and dS behind it.
template <typename T>
void backward_chunk(const Problem& p, int64_t b, int64_t h, int64_t start,
                    int64_t count, const T* d_output, const float* state, Chunk& c,
                    BackwardScratch& w, Gradients& g) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  for (int64_t i = 0; i < CHUNK; ++i) {
    float* row = w.d_out + i * vp;
    const T* from = d_output + ((b * p.length + start + i) * p.heads + h) * p.values;
    read_row(from, i < count ? p.values : 0, vp, row);
    if (start >= CHUNK) prefetch_row(from - CHUNK * p.heads * p.values, p.values);
  }
  float dr[CHUNK], m[CHUNK][CHUNK];
  // Gradients of G_i, the cumulative log decays: G_0 = 0 first, and what the columns j
  // of the pairwise decays take away from G_j.
  float position[CHUNK + 1] = {}, columns[CHUNK] = {};

  // dU = A^T dO + diag(F) K dS
  product(CHUNK, vp, kp, c.k, kp, w.grad, vp, w.du, vp);
  for (int i = 0; i < CHUNK; ++i) {
    scale_row(vp, w.du + i * vp, c.until[i]);
    for (int j = 0; j < CHUNK; j += WIDTH)
      store(c.qk + i * CHUNK + j,
            load(c.qk + i * CHUNK + j) * load(c.pair + i * CHUNK + j));
  }
  coupling(c, m);
  product<true>(CHUNK, vp, CHUNK, c.qk, CHUNK, w.d_out, vp, w.du, vp, 1.0f);
  solve<true>(vp, m, w.du, w.d_r);

  // dO U^T and dR U^T: what reaches A and (negated) M.
  transpose(CHUNK, vp, c.u, vp, w.from_state, CHUNK);
  product(2 * CHUNK, CHUNK, vp, w.d_out, vp, w.from_state, CHUNK, w.inner, CHUNK);
  // Through the states: dO S^T and dR S^T.
  transpose(kp, vp, state, vp, w.turned, kp);
  product(2 * CHUNK, kp, vp, w.d_out, vp, w.turned, kp, w.back, kp);
  float* dq = w.back;
  float* dk = w.back + CHUNK * kp;
  float* d_a = w.inner;
  float* d_m = w.inner + CHUNK * CHUNK;

  for (int i = 0; i < CHUNK; ++i) {
    scale_row(kp, dq + i * kp, c.after[i]);
    position[i + 1] += dot(kp, c.q + i * kp, dq + i * kp);
    const float y = -c.before[i] * dot(kp, c.k + i * kp, dk + i * kp);
    scale_row(kp, dk + i * kp, -c.beta[i] * c.r[i] * c.before[i]);
    // From here on d_a and d_m are the gradients of q_i . k_j and k_i . k_j.
    const float strength = c.beta[i] * c.r[i];
    Vec to_m{}, to_a{};
    for (int64_t j = 0; j < CHUNK; j += WIDTH) {
      const int64_t at = i * CHUNK + j;
      const Vec zero{}, decays = i ? load(c.pair + at - CHUNK) : zero;
      const Vec d_inner = -load(d_m + at) * decays, m_part = d_inner * load(c.kk + at);
      const Vec a_part = load(d_a + at) * load(c.qk + at);
      to_m += m_part;
      to_a += a_part;
      store(columns + j, load(columns + j) + m_part * strength + a_part);
      store(d_m + at, d_inner * strength);
      store(d_a + at, load(d_a + at) * load(c.pair + at));
    }
    const float pairs = sum(to_m);
    position[i] += strength * (y + pairs);
    position[i + 1] += sum(to_a);
    dr[i] = c.beta[i] * (y + pairs);
    if (i < count) {
      const int64_t token = (b * p.length + start + i) * p.heads + h;
      g.beta[token] = dot(vp, w.d_r + i * vp, c.v + i * vp) + c.r[i] * (y + pairs);
      float* dv = g.v + token * p.values;
      for (int64_t d = 0; d < p.values; ++d) dv[d] = c.beta[i] * w.d_r[i * vp + d];
    }
  }
  // The state's own way: dK += diag(F) U dS^T.
  transpose(kp, vp, w.grad, vp, w.turned, kp);
  product(CHUNK, kp, vp, c.u, vp, w.turned, kp, w.from_state, kp);
  float last = c.after[CHUNK - 1] * dot(kp * vp, w.grad, state);
  for (int i = 0; i < CHUNK; ++i) {
    const float through = c.until[i] * dot(kp, c.k + i * kp, w.from_state + i * kp);
    last += through;
    position[i + 1] -= through + columns[i];
    add_scaled(kp, dk + i * kp, w.from_state + i * kp, c.until[i]);
  }
  position[CHUNK] += last;

  // dS <- E_last dS + Q^T diag(E) dO - K^T diag(beta r E') dR
  for (int i = 0; i < CHUNK; ++i) {
    scale_row(vp, w.d_out + i * vp, c.after[i]);
    scale_row(vp, w.d_r + i * vp, -c.beta[i] * c.r[i] * c.before[i]);
  }
  product<true>(kp, vp, CHUNK, c.q, kp, w.d_out, vp, w.grad, vp, c.after[CHUNK - 1]);
  product<true>(kp, vp, CHUNK, c.k, kp, w.d_r, vp, w.grad, vp, 1.0f);

  product(CHUNK, kp, CHUNK, d_a, CHUNK, c.k, kp, dq, kp, 1.0f);
  product<true>(CHUNK, kp, CHUNK, d_a, CHUNK, c.q, kp, dk, kp, 1.0f);
  product(CHUNK, kp, CHUNK, d_m, CHUNK, c.k, kp, dk, kp, 1.0f);
  product<true>(CHUNK, kp, CHUNK, d_m, CHUNK, c.k, kp, dk, kp, 1.0f);
  write_gradients(p, b, h, start, count, c, dq, dk, dr, g);
  float behind = 0.0f;
  for (int64_t i = CHUNK - 1; i >= 0; --i) {
    behind += position[i + 1];
    if (i < count) g.log_decay[(b * p.length + start + i) * p.heads + h] = behind;
  }
}

template <typename T>
void backward_head(const Problem& p, int64_t b, int64_t h, const float* saved,
                   const T* d_output, const float* d_state, BackwardScratch& w,
                   Gradients& g) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  const int64_t item = b * p.heads + h, size = p.keys * p.values;
  const int64_t segments = (p.length + SEGMENT - 1) / SEGMENT;
  std::memset(w.grad, 0, kp * vp * 4);
  if (d_state) load_state(p, d_state + item * size, vp, w.grad);
  for (int64_t segment = segments - 1; segment >= 0; --segment) {
    const int64_t first = segment * SEGMENT;
    const int64_t end = p.length - first < SEGMENT ? p.length : first + SEGMENT;
    const int64_t chunks = (end - first + CHUNK - 1) / CHUNK;
    load_state(p, saved + (item * segments + segment) * size, vp, w.states);
    for (int64_t n = 0; n < chunks; ++n) {
      const int64_t start = first + n * CHUNK;
      const int64_t count = end - start < CHUNK ? end - start : CHUNK;
      float* state = w.states + n * kp * vp;
      read_chunk<T>(p, b, h, start, count, kp, vp, w.chunks[n]);
      prepare(kp, w.chunks[n]);
      write_vectors<false>(kp, vp, state, w.chunks[n]);
      if (n + 1 < chunks) {
        std::memcpy(state + kp * vp, state, kp * vp * 4);
        advance(kp, vp, w.chunks[n], state + kp * vp);
      }
    }
    for (int64_t n = chunks - 1; n >= 0; --n) {
      const int64_t start = first + n * CHUNK;
      const int64_t count = end - start < CHUNK ? end - start : CHUNK;
      backward_chunk<T>(p, b, h, start, count, d_output, w.states + n * kp * vp,
                        w.chunks[n], w, g);
    }
  }
  save_state(p, w.grad, vp, g.initial_state + item * size);
}

template <typename T>
void backward(const Problem& p, const float* saved, const T* d_output,
              const float* d_state, Gradients g, int threads) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(BackwardScratch::floats(kp, vp));
    BackwardScratch work(scratch, kp, vp);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < p.batch * p.heads; ++item)
      backward_head<T>(p, item / p.heads, item % p.heads, saved, d_output, d_state,
                       work, g);
  }
}

// sizes: batch, length, heads, keys, values; strides: three per operand, in order.
Problem problem(const int64_t* sizes, const int64_t* strides, const void* const* x) {
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

extern "C" {

int64_t crossdna_delta_rule_segment() { return crossdna::SEGMENT; }

void crossdna_delta_rule_forward(const int64_t* sizes, const int64_t* strides,
                                 const void* const* operands, const float* initial,
                                 void* output, float* final_state, float* saved,
                                 int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, strides, operands);
  if (bf16)
    forward(p, initial, static_cast<bfloat16*>(output), final_state, saved, threads);
  else
    forward(p, initial, static_cast<float*>(output), final_state, saved, threads);
}

// gradients: q, k, v, log_decay, beta, feedback, correction (the last two per token),
// initial state; all contiguous float32.
void crossdna_delta_rule_backward(const int64_t* sizes, const int64_t* strides,
                                  const void* const* operands, const float* saved,
                                  const void* d_output, const float* d_state,
                                  float* const* gradients, int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, strides, operands);
  const Gradients g{gradients[0], gradients[1], gradients[2], gradients[3],
                    gradients[4], gradients[5], gradients[6], gradients[7]};
  if (bf16)
    backward(p, saved, static_cast<const bfloat16*>(d_output), d_state, g, threads);
  else
    backward(p, saved, static_cast<const float*>(d_output), d_state, g, threads);
}
}
