// Short causal depthwise convolution with an optional SiLU, forward and backward.
//
// Time runs in the outer loop and channels in the inner one, as the data lies; a task is
// a stretch of one sequence. The inputs before a stretch come from the tail or from x.
#include "common.h"

// Declared here because omp.h belongs to the runtime that is not linked.
extern "C" int omp_get_thread_num(void);

namespace crossdna {
namespace {

constexpr int64_t STRETCH = 64;
constexpr int MAX_WIDTH = 16;
constexpr int TOGETHER = 4;  // outputs computed side by side

struct Problem {
  int64_t batch, length, channels, width;
  const void *x, *tail;  // tail (batch, width - 1, channels) contiguous
  const float* weight;   // (width, channels) contiguous, the last row meets x_t
  int64_t x_batch, x_length;
  bool silu;
  int64_t stretches() const { return (length + STRETCH - 1) / STRETCH; }
};

template <typename T>
const T* input_row(const Problem& p, int64_t b, int64_t t) {
  if (t >= 0) return static_cast<const T*>(p.x) + b * p.x_batch + t * p.x_length;
  const int64_t row = b * (p.width - 1) + p.width - 1 + t;
  return static_cast<const T*>(p.tail) + row * p.channels;
}

// The sum over the taps at WIDTH channels from c.
template <typename T>
inline Vec convolve(const Problem& p, const T* const* rows, int64_t c) {
  Vec y{};
  for (int64_t i = 0; i < p.width; ++i)
    y += load_wide(rows[i] + c) * load(p.weight + i * p.channels + c);
  return y;
}

// TOGETHER outputs share their inputs and taps; TAPS = 0 takes any number of taps.
template <typename T, int TAPS>
void forward_rows(const Problem& p, const T* const* rows, int64_t count, T* to) {
  const int64_t taps = TAPS ? TAPS : p.width;
  for (int64_t c = 0; c < p.channels; c += WIDTH) {
    Vec y[TOGETHER] = {};
#pragma GCC unroll 16
    for (int64_t i = 0; i < taps + TOGETHER - 1; ++i) {
      const Vec x = load_wide(rows[i] + c);
#pragma GCC unroll 4
      for (int64_t n = 0; n < TOGETHER; ++n)
        if (i >= n && i - n < taps) y[n] += x * load(p.weight + (i - n) * p.channels + c);
    }
#pragma GCC unroll 4
    for (int64_t n = 0; n < TOGETHER; ++n)
      if (n < count)
        store_narrow(p.silu ? y[n] * sigmoid_of<T>(y[n]) : y[n], to + n * p.channels + c);
  }
}

template <typename T>
void forward(const Problem& p, T* output, int threads) {
  const int64_t items = p.batch * p.stretches();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t b = item / p.stretches(), first = item % p.stretches() * STRETCH;
    const int64_t end = first + STRETCH < p.length ? first + STRETCH : p.length;
    for (int64_t t = first; t < end; t += TOGETHER) {
      const T* rows[MAX_WIDTH + TOGETHER - 1];
      // Rows beyond the end repeat the last one: their outputs are not stored.
      for (int64_t i = 0; i < p.width + TOGETHER - 1; ++i) {
        const int64_t at = t - p.width + 1 + i;
        rows[i] = input_row<T>(p, b, at < end ? at : end - 1);
      }
      T* to = output + (b * p.length + t) * p.channels;
      const int64_t count = end - t < TOGETHER ? end - t : TOGETHER;
      if (p.width == 4)
        forward_rows<T, 4>(p, rows, count, to);
      else if (p.width == 9)
        forward_rows<T, 9>(p, rows, count, to);
      else
        forward_rows<T, 0>(p, rows, count, to);
    }
  }
}

// Gradients of the outputs before the activation, at time t of sequence b.
template <typename T>
void before_activation(const Problem& p, int64_t b, int64_t t, const T* d_output,
                       float* to) {
  const T* rows[MAX_WIDTH];
  for (int64_t i = 0; i < p.width; ++i)
    rows[i] = input_row<T>(p, b, t - p.width + 1 + i);
  const T* from = d_output + (b * p.length + t) * p.channels;
  for (int64_t c = 0; c < p.channels; c += WIDTH) {
    Vec d = load_wide(from + c);
    if (p.silu) {
      const Vec y = convolve(p, rows, c), s = sigmoid(y);
      d *= s * (1.0f + y * (1.0f - s));
    }
    store(to + c, d);
  }
}

// Adds what the output at time t of sequence b, with gradient d, gives to the taps.
template <typename T>
void add_d_weight(const Problem& p, int64_t b, int64_t t, const float* d, float* sums) {
  for (int64_t i = 0; i < p.width; ++i) {
    const T* x = input_row<T>(p, b, t - p.width + 1 + i);
    float* sum = sums + i * p.channels;
    for (int64_t c = 0; c < p.channels; c += WIDTH)
      store(sum + c, load(sum + c) + load_wide(x + c) * load(d + c));
  }
}

// The gradient of the input at time t, from those of the outputs in `ring`.
inline void d_input(const Problem& p, int64_t t, const float* ring, float* to) {
  const float* rows[MAX_WIDTH];
  // An input before the first met only the first taps' outputs.
  const int64_t taps = t < 0 ? t + p.width : p.width;
  for (int64_t i = 0; i < taps; ++i)
    rows[i] = ring + (t + p.width - 1 - i) % p.width * p.channels;
  for (int64_t c = 0; c < p.channels; c += WIDTH) {
    Vec sum{};
    for (int64_t i = 0; i < taps; ++i)
      sum += load(rows[i] + c) * load(p.weight + i * p.channels + c);
    store(to + c, sum);
  }
}

// dx (batch, length, channels), d_tail and d_weight; all float32, all overwritten.
template <typename T>
void backward(const Problem& p, const T* d_output, float* dx, float* d_tail,
              float* d_weight, int threads) {
  const int64_t items = p.batch * p.stretches(), c_all = p.channels, w = p.width;
  // Each thread's share of d_weight, added up in a fixed order at the end.
  Scratch shares(threads * w * c_all);
  float* share = shares.take(threads * w * c_all);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(w * c_all);
    float* ring = scratch.take(w * c_all);  // the last `width` gradients
    float* own = share + omp_get_thread_num() * w * c_all;
#pragma omp for schedule(static)
    for (int64_t item = 0; item < items; ++item) {
      const int64_t b = item / p.stretches(), first = item % p.stretches() * STRETCH;
      const int64_t end = first + STRETCH < p.length ? first + STRETCH : p.length;
      // dx_t needs the gradients of t .. t + width - 1: those beyond the stretch are
      // computed again by the next one; the first stretch also serves the tail.
      const int64_t low = first == 0 ? 1 - w : first;
      for (int64_t t = first; t < end + w - 1; ++t) {
        float* d = ring + t % w * c_all;
        if (t < p.length) {
          before_activation(p, b, t, d_output, d);
          if (t < end) add_d_weight<T>(p, b, t, d, own);
        } else {
          std::memset(d, 0, c_all * 4);
        }
        const int64_t at = t - w + 1;  // every output that reads this input is here
        if (at < low) continue;
        float* to = at >= 0 ? dx + (b * p.length + at) * c_all
                            : d_tail + (b * (w - 1) + w - 1 + at) * c_all;
        d_input(p, at, ring, to);
      }
    }
  }
  std::memcpy(d_weight, share, w * c_all * 4);
  for (int n = 1; n < threads; ++n)
    for (int64_t c = 0; c < w * c_all; c += WIDTH)
      store(d_weight + c, load(d_weight + c) + load(share + n * w * c_all + c));
}

// sizes: batch, length, channels, width, strides of x over batch and length, silu.
Problem problem(const int64_t* sizes, const void* const* x, const float* weight) {
  return Problem{sizes[0], sizes[1], sizes[2], sizes[3], x[0],
                 x[1],     weight,   sizes[4], sizes[5], sizes[6] != 0};
}

}  // namespace
}  // namespace crossdna

extern "C" {

void crossdna_short_conv_forward(const int64_t* sizes, const void* const* inputs,
                                 const float* weight, void* output, int bf16,
                                 int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, inputs, weight);
  if (bf16)
    forward(p, static_cast<bfloat16*>(output), threads);
  else
    forward(p, static_cast<float*>(output), threads);
}

void crossdna_short_conv_backward(const int64_t* sizes, const void* const* inputs,
                                  const float* weight, const void* d_output,
                                  float* const* gradients, int bf16, int threads) {
  using namespace crossdna;
  const Problem p = problem(sizes, inputs, weight);
  float *dx = gradients[0], *dw = gradients[1], *d_tail = gradients[2];
  if (bf16)
    backward(p, static_cast<const bfloat16*>(d_output), dx, d_tail, dw, threads);
  else
    backward(p, static_cast<const float*>(d_output), dx, d_tail, dw, threads);
}
}
