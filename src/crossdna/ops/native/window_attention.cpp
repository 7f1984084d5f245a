// Window attention, forward; window_attention.h says how.
#include "window_attention_products.h"

namespace crossdna {
namespace {

struct ForwardScratch {
  float *k, *v, *rows, *turned, *s, *o;
  ForwardScratch(Scratch& x, int64_t keys, int64_t wp) {
    k = x.take(keys * wp);
    v = x.take(keys * wp);
    rows = x.take(PAD * wp);
    turned = x.take(PAD * wp);
    s = x.take(KEYS * LANES);
    o = x.take(PAD * wp);
  }
  static int64_t floats(int64_t keys, int64_t wp) {
    return (2 * keys + 3 * PAD) * wp + KEYS * LANES;
  }
};

// What a running softmax keeps for each of LANES queries.
struct Softmax {
  Queries top, weight;
};

// Divides by the sums of the weights and writes LANES rows of the output.
template <typename T>
void write_queries(const Problem& p, int64_t b, int64_t h, const Range& r,
                   int64_t first, const Softmax& x, T* output, float* log_sums,
                   ForwardScratch& w) {
  const int64_t wp = padded(p.width);
  for (int n = 0; n < VECTORS; ++n)
    for (int64_t d = 0; d < p.width; ++d) {
      float* at = w.o + d * LANES + n * WIDTH;
      store(at, load(at) / x.weight.part[n]);
    }
  transpose(wp, LANES, w.o, LANES, w.rows, wp);
  for (int64_t i = 0; i < LANES && first + i < r.to; ++i) {
    const int64_t t = first + i - p.first_query();
    T* row = output + ((b * p.length + t) * p.heads + h) * p.width;
    write_row(w.rows + i * wp, p.width, row);
    if (log_sums)
      log_sums[(b * p.heads + h) * p.length + t] =
          x.top.part[i / WIDTH][i % WIDTH] +
          std::log2(x.weight.part[i / WIDTH][i % WIDTH]);
  }
}

// Takes the scores of one more stretch of keys in w.s into a vector's softmax: turns them
// into weights and shrinks what was added up under a lower maximum.
template <typename Products>
void take_scores(int64_t count, int64_t width, int n, Softmax& x, ForwardScratch& w) {
  float* s = w.s + n * WIDTH;
  const Vec top = maximum(highest(count, s), x.top.part[n]);
  const Vec shrink = exp2_fast(x.top.part[n] - top);
  x.weight.part[n] = x.weight.part[n] * shrink + Products::weigh(count, top, s);
  for (int64_t d = 0; d < width; ++d) {
    float* at = w.o + d * LANES + n * WIDTH;
    store(at, load(at) * shrink);
  }
  x.top.part[n] = top;
}

template <typename T, typename Products>
void forward_block(const Problem& p, int64_t b, int64_t h, int64_t block, T* output,
                   float* log_sums, ForwardScratch& w) {
  const int64_t wp = padded(p.width);
  const Range r = range(p, block);
  read_keys<T>(p, b, h, r, w.k, w.v);
  Products::pack_keys(grouped(r.keys()), wp, w.k, w.v);
  for (int64_t g = 0; g < r.groups(); ++g) {
    const int64_t first = r.from + g * LANES;
    read_queries<T>(p, b, h, r, first, w.rows);
    Products::pack_queries(wp, w.rows, w.turned);
    std::memset(w.o, 0, wp * LANES * 4);
    const Span keys = span(p, r, first);
    Softmax softmax{};
    for (Vec& top : softmax.top.part) top = splat(FAR);
    for (int64_t start = keys.begin; start < keys.end; start += KEYS) {
      const int64_t count = keys.end - start < KEYS ? keys.end - start : KEYS;
      Products::score(grouped(count), p.width, wp, w.k, start - r.low, w.turned, w.s);
      hide(p, b, first, start, count, w.s);
      for (int n = 0; n < VECTORS; ++n)
        take_scores<Products>(grouped(count), p.width, n, softmax, w);
      Products::add(grouped(count), p.width, wp, w.v, start - r.low, w.s, w.o);
    }
    write_queries(p, b, h, r, first, softmax, output, log_sums, w);
  }
}

template <typename T, typename Products>
void forward(const Problem& p, T* output, float* log_sums, int threads) {
  const int64_t wp = padded(p.width), keys = most_keys(p);
  const int64_t items = p.batch * p.heads * p.blocks();
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(ForwardScratch::floats(keys, wp));
    ForwardScratch work(scratch, keys, wp);
#pragma omp for schedule(dynamic)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t head = item / p.blocks();
      forward_block<T, Products>(p, head / p.heads, head % p.heads, item % p.blocks(), output,
                       log_sums, work);
    }
  }
}

}  // namespace
}  // namespace crossdna

extern "C" {

int64_t crossdna_window_attention_block() { return crossdna::BLOCK; }

void crossdna_window_attention_forward(const int64_t* sizes, const int64_t* strides,
                                       const void* const* operands,
                                       const uint8_t* visible, const float* cosines,
                                       const float* sines, void* output,
                                       float* log_sums, int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, strides, operands, visible, cosines, sines);
  if (!bf16)
    forward<float, Float32Products>(p, static_cast<float*>(output), log_sums, threads);
  else if (log_sums)  // the backward pass computes the same weights again in float32
    forward<bfloat16, Float32Products>(p, static_cast<bfloat16*>(output), log_sums,
                                       threads);
  else
    forward<bfloat16, BFloat16Products>(p, static_cast<bfloat16*>(output), log_sums,
                                        threads);
}
}
