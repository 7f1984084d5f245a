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
    s = x.take(KEYS * WIDTH);
    o = x.take(PAD * wp);
  }
  static int64_t floats(int64_t keys, int64_t wp) {
    return (2 * keys + 3 * PAD) * wp + KEYS * WIDTH;
  }
};

// Divides by the sums of the weights and writes WIDTH rows of the output.
template <typename T>
void write_queries(const Problem& p, int64_t b, int64_t h, const Range& r,
                   int64_t first, Vec top, Vec weight, T* output, float* log_sums,
                   ForwardScratch& w) {
  const int64_t wp = padded(p.width);
  for (int64_t d = 0; d < p.width; ++d)
    store(w.o + d * WIDTH, load(w.o + d * WIDTH) / weight);
  transpose(wp, WIDTH, w.o, WIDTH, w.rows, wp);
  for (int64_t i = 0; i < WIDTH && first + i < r.to; ++i) {
    const int64_t t = first + i - p.first_query();
    T* row = output + ((b * p.length + t) * p.heads + h) * p.width;
    write_row(w.rows + i * wp, p.width, row);
    if (log_sums)
      log_sums[(b * p.heads + h) * p.length + t] = top[i] + std::log2(weight[i]);
  }
}

template <typename T, typename Products>
void forward_block(const Problem& p, int64_t b, int64_t h, int64_t block, T* output,
                   float* log_sums, ForwardScratch& w) {
  const int64_t wp = padded(p.width);
  const Range r = range(p, block);
  read_keys<T>(p, b, h, r, w.k, w.v);
  Products::pack_keys(grouped(r.keys()), wp, w.k, w.v);
  for (int64_t g = 0; g < r.groups(); ++g) {
    const int64_t first = r.from + g * WIDTH;
    read_queries<T>(p, b, h, r, first, w.rows);
    Products::pack_queries(wp, w.rows, w.turned);
    std::memset(w.o, 0, wp * WIDTH * 4);
    const IntVec query_visible = query_visibility(p, b, first);
    const Span keys = span(p, r, first);
    Vec top = splat(FAR), weight{};
    for (int64_t start = keys.begin; start < keys.end; start += KEYS) {
      const int64_t count = keys.end - start < KEYS ? keys.end - start : KEYS;
      Products::score(grouped(count), p.width, wp, w.k, start - r.low, w.turned, w.s);
      hide(p, b, first, query_visible, start, count, w.s);
      const Vec new_top = maximum(highest(grouped(count), w.s), top);
      const Vec shrink = exp2_fast(top - new_top);
      weight = weight * shrink + Products::weigh(grouped(count), new_top, w.s);
      for (int64_t d = 0; d < p.width; ++d)
        store(w.o + d * WIDTH, load(w.o + d * WIDTH) * shrink);
      Products::add(grouped(count), p.width, wp, w.v, start - r.low, w.s, w.o);
      top = new_top;
    }
    write_queries(p, b, h, r, first, top, weight, output, log_sums, w);
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
