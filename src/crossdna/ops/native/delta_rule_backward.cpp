// The gated delta rule, backward: the equations of delta_rule.h differentiated from the
// last to the first. The states at chunk starts are recomputed from one state saved every
// SEGMENT tokens.
#include "delta_rule.h"

#include <vector>

namespace crossdna {
namespace {

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
void write_gradients(const Problem& p, const Place& at, const Chunk& c, float* dq,
                     float* dk, const float* dr, Gradients& g) {
  const int64_t kp = padded(p.keys);
  const float width_scale = 1.0f / std::sqrt(static_cast<float>(p.keys));
  for (int64_t i = 0; i < at.count; ++i) {
    const int64_t token = at.token(p, i);
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

// What the decays and r of a chunk receive, gathered along the way.
struct Sums {
  float r[CHUNK];
  // Gradients of the cumulative log decays G: G_0 = 0 first, then one per token.
  float position[CHUNK + 1] = {};
  // What the columns j of the pairwise decays take away from G_j.
  float columns[CHUNK] = {};
};

template <typename T>
void read_d_output(const Problem& p, const Place& at, const T* d_output, int64_t vp,
                   float* rows) {
  for (int64_t i = 0; i < CHUNK; ++i) {
    const bool here = i < at.count;
    const T* from = d_output + (here ? at.token(p, i) : 0) * p.values;
    read_row(from, here ? p.values : 0, vp, rows + i * vp);
    if (here && at.start >= CHUNK)
      prefetch_row(from - CHUNK * p.heads * p.values, p.values);
  }
}

// dU = A^T dO + diag(F) K dS and, through the solution, dR = (I + M)^-T dU, where
// R = diag(beta) X.
void vectors_backward(int64_t kp, int64_t vp, Chunk& c, BackwardScratch& w) {
  float m[CHUNK][CHUNK];
  product(CHUNK, vp, kp, c.k, kp, w.grad, vp, w.du, vp);
  for (int i = 0; i < CHUNK; ++i) scale_row(vp, w.du + i * vp, c.until[i]);
  attention(c);
  coupling(c, m);
  product<true>(CHUNK, vp, CHUNK, c.qk, CHUNK, w.d_out, vp, w.du, vp, 1.0f);
  solve<true>(vp, m, w.du, w.d_r);
}

// dO U^T and dR U^T, which reach A and (negated) M, into `inner`; dO S^T and dR S^T,
// which reach q and k through the state, into `back`.
void products_backward(int64_t kp, int64_t vp, const float* state, const Chunk& c,
                       BackwardScratch& w) {
  transpose(CHUNK, vp, c.u, vp, w.from_state, CHUNK);
  product(2 * CHUNK, CHUNK, vp, w.d_out, vp, w.from_state, CHUNK, w.inner, CHUNK);
  transpose(kp, vp, state, vp, w.turned, kp);
  product(2 * CHUNK, kp, vp, w.d_out, vp, w.turned, kp, w.back, kp);
}

// Turns row i of dA and of -dM into gradients of q_i . k_j and k_i . k_j; returns the
// sum over j of dM_ij M_ij / (beta_i r_i).
float pairs_backward(int64_t i, const Chunk& c, BackwardScratch& w, Sums& sums) {
  const float strength = c.beta[i] * c.r[i];
  float *d_a = w.inner + i * CHUNK, *d_m = w.inner + (CHUNK + i) * CHUNK;
  Vec to_m{}, to_a{};
  for (int64_t j = 0; j < CHUNK; j += WIDTH) {
    const int64_t at = i * CHUNK + j;
    const Vec zero{}, decays = i ? load(c.pair + at - CHUNK) : zero;
    const Vec d_inner = -load(d_m + j) * decays, m_part = d_inner * load(c.kk + at);
    const Vec a_part = load(d_a + j) * load(c.qk + at);
    to_m += m_part;
    to_a += a_part;
    store(sums.columns + j, load(sums.columns + j) + m_part * strength + a_part);
    store(d_m + j, d_inner * strength);
    store(d_a + j, load(d_a + j) * load(c.pair + at));
  }
  sums.position[i + 1] += sum(to_a);
  return sum(to_m);
}

// What each token gets from the terms inside the chunk and from reading the state.
void tokens_backward(const Problem& p, const Place& at, const Chunk& c,
                     BackwardScratch& w, Sums& sums, Gradients& g) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  for (int64_t i = 0; i < CHUNK; ++i) {
    float *dq = w.back + i * kp, *dk = w.back + (CHUNK + i) * kp;
    const float *d_r = w.d_r + i * vp, strength = c.beta[i] * c.r[i];
    scale_row(kp, dq, c.after[i]);
    sums.position[i + 1] += dot(kp, c.q + i * kp, dq);
    const float read = -c.before[i] * dot(kp, c.k + i * kp, dk);
    scale_row(kp, dk, -strength * c.before[i]);
    const float both = read + pairs_backward(i, c, w, sums);
    sums.position[i] += strength * both;
    sums.r[i] = c.beta[i] * both;
    if (i >= at.count) continue;
    g.beta[at.token(p, i)] = dot(vp, d_r, c.v + i * vp) + c.r[i] * both;
    float* dv = g.v + at.token(p, i) * p.values;
    for (int64_t d = 0; d < p.values; ++d) dv[d] = c.beta[i] * d_r[d];
  }
}

// From the state behind the chunk: dK += diag(F) U dS^T, and the decays of both.
void written_backward(int64_t kp, int64_t vp, const float* state, const Chunk& c,
                      BackwardScratch& w, Sums& sums) {
  transpose(kp, vp, w.grad, vp, w.turned, kp);
  product(CHUNK, kp, vp, c.u, vp, w.turned, kp, w.from_state, kp);
  float last = c.after[CHUNK - 1] * dot(kp * vp, w.grad, state);
  for (int i = 0; i < CHUNK; ++i) {
    const float* from = w.from_state + i * kp;
    const float through = c.until[i] * dot(kp, c.k + i * kp, from);
    last += through;
    sums.position[i + 1] -= through + sums.columns[i];
    add_scaled(kp, w.back + (CHUNK + i) * kp, from, c.until[i]);
  }
  sums.position[CHUNK] += last;
}

// dS <- E_last dS + Q^T diag(E) dO - K^T diag(beta r E') dR
void state_backward(int64_t kp, int64_t vp, const Chunk& c, BackwardScratch& w) {
  for (int i = 0; i < CHUNK; ++i) {
    scale_row(vp, w.d_out + i * vp, c.after[i]);
    scale_row(vp, w.d_r + i * vp, -c.beta[i] * c.r[i] * c.before[i]);
  }
  product<true>(kp, vp, CHUNK, c.q, kp, w.d_out, vp, w.grad, vp, c.after[CHUNK - 1]);
  product<true>(kp, vp, CHUNK, c.k, kp, w.d_r, vp, w.grad, vp, 1.0f);
}

// One chunk, given its state and, in w.grad, dS behind it; leaves dS before it.
template <typename T>
void backward_chunk(const Problem& p, const Place& at, const T* d_output,
                    const float* state, Chunk& c, BackwardScratch& w, Gradients& g) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  Sums sums;
  read_d_output(p, at, d_output, vp, w.d_out);
  vectors_backward(kp, vp, c, w);
  products_backward(kp, vp, state, c, w);
  tokens_backward(p, at, c, w, sums, g);
  written_backward(kp, vp, state, c, w, sums);
  state_backward(kp, vp, c, w);
  float *dq = w.back, *dk = w.back + CHUNK * kp;
  const float *d_a = w.inner, *d_m = w.inner + CHUNK * CHUNK;
  product(CHUNK, kp, CHUNK, d_a, CHUNK, c.k, kp, dq, kp, 1.0f);
  product<true>(CHUNK, kp, CHUNK, d_a, CHUNK, c.q, kp, dk, kp, 1.0f);
  product(CHUNK, kp, CHUNK, d_m, CHUNK, c.k, kp, dk, kp, 1.0f);
  product<true>(CHUNK, kp, CHUNK, d_m, CHUNK, c.k, kp, dk, kp, 1.0f);
  write_gradients(p, at, c, dq, dk, sums.r, g);
  float behind = 0.0f;
  for (int64_t i = CHUNK - 1; i >= 0; --i) {
    behind += sums.position[i + 1];
    if (i < at.count) g.log_decay[at.token(p, i)] = behind;
  }
}

// Computes the chunks of a segment again, with the state before each.
template <typename T>
void recompute(const Problem& p, int64_t b, int64_t h, int64_t first, int64_t end,
               const float* saved, BackwardScratch& w) {
  const int64_t kp = padded(p.keys), vp = padded(p.values);
  load_state(p, saved, vp, w.states);
  for (int64_t n = 0, start = first; start < end; ++n, start += CHUNK) {
    float* state = w.states + n * kp * vp;
    read_chunk<T>(p, place(b, h, start, end), kp, vp, w.chunks[n]);
    prepare(kp, w.chunks[n]);
    write_vectors<false>(kp, vp, state, w.chunks[n]);
    if (start + CHUNK < end) {
      std::memcpy(state + kp * vp, state, kp * vp * 4);
      advance(kp, vp, w.chunks[n], state + kp * vp);
    }
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
    recompute<T>(p, b, h, first, end, saved + (item * segments + segment) * size, w);
    for (int64_t n = (end - first - 1) / CHUNK; n >= 0; --n)
      backward_chunk<T>(p, place(b, h, first + n * CHUNK, end), d_output,
                        w.states + n * kp * vp, w.chunks[n], w, g);
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

}  // namespace
}  // namespace crossdna

extern "C" {

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
