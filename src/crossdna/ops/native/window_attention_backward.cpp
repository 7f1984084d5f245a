// Window attention, backward: weights are computed again from the logarithms of their sums.
#include "window_attention.h"

namespace crossdna {
namespace {

struct BackwardScratch {
  float *k, *v, *dk, *dv, *rows, *turned, *d_rows, *d_turned, *s, *ds, *dq;
  BackwardScratch(Scratch& x, int64_t keys, int64_t wp) {
    k = x.take(keys * wp);
    v = x.take(keys * wp);
    dk = x.take(keys * wp);
    dv = x.take(keys * wp);
    rows = x.take(PAD * wp);
    turned = x.take(PAD * wp);
    d_rows = x.take(PAD * wp);
    d_turned = x.take(PAD * wp);
    dq = x.take(PAD * wp);
    s = x.take(KEYS * LANES);
    ds = x.take(KEYS * LANES);
  }
  static int64_t floats(int64_t keys, int64_t wp) {
    return (4 * keys + 5 * PAD) * wp + 2 * KEYS * LANES;
  }
};

// Adds sum_i weights[j][i] rows[i] to out[j]: lanes are channels here.
#if defined(__AVX__) && !defined(__AVX512F__)
// With 16 registers it is a tile of out that stays in them, not the rows.
inline void scatter(int64_t count, int64_t wp, const float* weights, const float* rows,
                    float* out) {
  product(grouped(count), wp, LANES, weights, LANES, rows, wp, out, wp, 1.0f);
}
#else
inline void scatter(int64_t count, int64_t wp, const float* weights, const float* rows,
                    float* out) {
  for (int64_t c = 0; c < wp; c += WIDTH) {
    Vec x[WIDTH];
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; ++i) x[i] = load(rows + i * wp + c);
    for (int64_t j = 0; j < count; ++j) {
      // Two chains hide the latency of the additions.
      Vec even = load(out + j * wp + c), odd{};
#pragma GCC unroll 8
      for (int i = 0; i < WIDTH; i += 2) {
        even += weights[j * WIDTH + i] * x[i];
        odd += weights[j * WIDTH + i + 1] * x[i + 1];
      }
      store(out + j * wp + c, even + odd);
    }
  }
}
#endif

struct Gradients {
  float *q, *k, *v;  // contiguous float32; k and v start at zero
};

// Reads the gradients of LANES queries, their products with the outputs and the logarithms
// of their sums; lanes beyond the end get weights of zero.
template <typename T>
void read_d_output(const Problem& p, int64_t b, int64_t h, const Range& r,
                   int64_t first, const T* output, const T* d_output,
                   const float* log_sums, float* d_rows, Queries& log_sum,
                   Queries& inner) {
  const int64_t wp = padded(p.width);
  std::memset(d_rows, 0, wp * LANES * 4);
  inner = Queries{};
  for (Vec& part : log_sum.part) part = splat(-FAR);
  for (int64_t i = 0; i < LANES && first + i < r.to; ++i) {
    const int64_t t = first + i - p.first_query();
    const int64_t at = ((b * p.length + t) * p.heads + h) * p.width;
    read_row(d_output + at, p.width, wp, d_rows + i * wp);
    float total = 0.0f;
    for (int64_t d = 0; d < p.width; ++d)
      total += widen(output[at + d]) * d_rows[i * wp + d];
    inner.part[i / WIDTH][i % WIDTH] = total;
    log_sum.part[i / WIDTH][i % WIDTH] = log_sums[(b * p.heads + h) * p.length + t];
  }
}

// Turns the scores of keys and the products dO V^T into weights and their gradients.
inline void weigh_backward(int64_t count, const Queries& log_sum, const Queries& inner,
                           float* s, float* ds) {
  for (int64_t j = 0; j < count; ++j)
#pragma GCC unroll 2
    for (int n = 0; n < VECTORS; ++n) {
      const int64_t at = j * LANES + n * WIDTH;
      const Vec e = exp2_fast(load(s + at) - log_sum.part[n]);
      store(s + at, e);
      store(ds + at, e * (load(ds + at) - inner.part[n]));
    }
}

template <typename T>
void backward_group(const Problem& p, int64_t b, int64_t h, const Range& r,
                    int64_t first, const T* output, const T* d_output,
                    const float* log_sums, BackwardScratch& w, Gradients& g) {
  const int64_t wp = padded(p.width);
  read_queries<T>(p, b, h, r, first, w.rows);
  turn(wp, w.rows, w.turned);
  std::memset(w.dq, 0, wp * LANES * 4);
  Queries log_sum, inner;
  read_d_output(p, b, h, r, first, output, d_output, log_sums, w.d_rows, log_sum,
                inner);
  turn(wp, w.d_rows, w.d_turned);
  const Span keys = span(p, r, first);
  for (int64_t start = keys.begin; start < keys.end; start += KEYS) {
    const int64_t count = keys.end - start < KEYS ? keys.end - start : KEYS;
    const int64_t at = (start - r.low) * wp;
    scores(grouped(count), p.width, wp, w.k + at, w.turned, w.s);
    hide(p, b, first, start, count, w.s);
    scores(grouped(count), p.width, wp, w.v + at, w.d_turned, w.ds);
    weigh_backward(grouped(count), log_sum, inner, w.s, w.ds);
    gather(count, wp, p.width, w.k + at, w.ds, w.dq);
    scatter(count, wp, w.ds, w.rows, w.dk + at);
    scatter(count, wp, w.s, w.d_rows, w.dv + at);
  }
  transpose(wp, LANES, w.dq, LANES, w.rows, wp);
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.width));
  for (int64_t i = 0; i < LANES && first + i < r.to; ++i) {
    const int64_t t = first + i - p.first_query();
    float* row = g.q + ((b * p.length + t) * p.heads + h) * p.width;
    for (int64_t d = 0; d < p.width; ++d) row[d] = scale * w.rows[i * wp + d];
    rotate(p, first + i - r.low, -1.0f, row);
  }
}

template <typename T>
void backward_block(const Problem& p, int64_t b, int64_t h, int64_t block,
                    const T* output, const T* d_output, const float* log_sums,
                    BackwardScratch& w, Gradients& g) {
  const int64_t wp = padded(p.width);
  const Range r = range(p, block);
  read_keys<T>(p, b, h, r, w.k, w.v);
  std::memset(w.dk, 0, r.keys() * wp * 4);
  std::memset(w.dv, 0, r.keys() * wp * 4);
  for (int64_t i = 0; i < r.groups(); ++i)
    backward_group<T>(p, b, h, r, r.from + i * LANES, output, d_output, log_sums, w, g);
  // The queries carried log2(e): dK = ln(2) dS^T Q.
  for (int64_t j = r.low; j < r.to; ++j) {
    float* row = w.dk + (j - r.low) * wp;
    rotate(p, j - r.low, -1.0f, row);
    const int64_t at = ((b * p.total + j) * p.heads + h) * p.width;
    for (int64_t d = 0; d < p.width; ++d) {
      g.k[at + d] += 0.69314718f * row[d];
      g.v[at + d] += w.dv[(j - r.low) * wp + d];
    }
  }
}

template <typename T>
void backward(const Problem& p, const T* output, const T* d_output,
              const float* log_sums, Gradients g, int threads) {
  const int64_t wp = padded(p.width), keys = most_keys(p);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(BackwardScratch::floats(keys, wp));
    BackwardScratch work(scratch, keys, wp);
    // Blocks of one head add to the same keys: one thread takes a whole head.
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < p.batch * p.heads; ++item)
      for (int64_t block = 0; block < p.blocks(); ++block)
        backward_block<T>(p, item / p.heads, item % p.heads, block, output, d_output,
                          log_sums, work, g);
  }
}

}  // namespace
}  // namespace crossdna

extern "C" {

void crossdna_window_attention_backward(
    const int64_t* sizes, const int64_t* strides, const void* const* operands,
    const uint8_t* visible, const float* cosines, const float* sines,
    const void* output, const void* d_output, const float* log_sums,
    float* const* gradients, int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, strides, operands, visible, cosines, sines);
  const Gradients g{gradients[0], gradients[1], gradients[2]};
  if (bf16)
    backward(p, static_cast<const bfloat16*>(output),
             static_cast<const bfloat16*>(d_output), log_sums, g, threads);
  else
    backward(p, static_cast<const float*>(output), static_cast<const float*>(d_output),
             log_sums, g, threads);
}
}
