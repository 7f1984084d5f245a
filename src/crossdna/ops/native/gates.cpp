// Normalisations and gates in one pass over each row, forward and backward.
//
// A row is one position; widths are multiples of PAD. Statistics and sums are float32
// whatever the operands are.
#include "common.h"

// Declared here because omp.h belongs to the runtime that is not linked.
extern "C" int omp_get_thread_num(void);

namespace crossdna {
namespace {

// Sums over rows that threads collect apart and add up in a fixed order.
class Shares {
 public:
  Shares(int threads, int64_t width)
      : memory_(threads * padded(width)), width_(width), threads_(threads) {
    base_ = memory_.take(threads * padded(width));
  }
  float* own() { return base_ + omp_get_thread_num() * padded(width_); }
  void total(float* to) const {
    std::memcpy(to, base_, width_ * 4);
    for (int n = 1; n < threads_; ++n)
      for (int64_t c = 0; c < width_; ++c) to[c] += base_[n * padded(width_) + c];
  }

 private:
  Scratch memory_;
  int64_t width_;
  int threads_;
  float* base_;
};

// y = x rsqrt(mean x^2 + eps) w, times sigmoid(gate) where there is one.
// Each of `rows` rows holds `groups` runs of `width` that are normalised apart.
struct RmsNorm {
  int64_t rows, groups, width, x_stride, gate_stride;
  const void *x, *gate;
  const float* weight;
  float eps;
};

template <typename T>
float scale_of(const T* x, int64_t width, float eps) {
  Vec squares{};
  for (int64_t c = 0; c < width; c += WIDTH) {
    const Vec v = load_wide(x + c);
    squares += v * v;
  }
  return 1.0f / std::sqrt(sum(squares) / static_cast<float>(width) + eps);
}

template <typename T>
void rms_norm_forward(const RmsNorm& p, T* output, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < p.rows; ++row)
    for (int64_t group = 0; group < p.groups; ++group) {
      const int64_t at = group * p.width;
      const T* x = static_cast<const T*>(p.x) + row * p.x_stride + at;
      const T* gate = static_cast<const T*>(p.gate);
      if (gate) gate += row * p.gate_stride + at;
      T* to = output + row * p.groups * p.width + at;
      const float scale = scale_of(x, p.width, p.eps);
      for (int64_t c = 0; c < p.width; c += WIDTH) {
        Vec y = load_wide(x + c) * scale * load(p.weight + c);
        if (gate) y *= sigmoid_of<T>(load_wide(gate + c));
        store_narrow(y, to + c);
      }
    }
}

template <typename T>
void rms_norm_backward(const RmsNorm& p, const T* d_output, T* dx, T* d_gate,
                       float* d_weight, int threads) {
  Shares shares(threads, p.width);
#pragma omp parallel num_threads(threads)
  {
    float* own = shares.own();
#pragma omp for schedule(static)
    for (int64_t row = 0; row < p.rows; ++row)
      for (int64_t group = 0; group < p.groups; ++group) {
        const int64_t at = group * p.width, out = row * p.groups * p.width + at;
        const T* x = static_cast<const T*>(p.x) + row * p.x_stride + at;
        const T* gate = static_cast<const T*>(p.gate);
        if (gate) gate += row * p.gate_stride + at;
        const float scale = scale_of(x, p.width, p.eps);
        Vec along{};
        for (int64_t c = 0; c < p.width; c += WIDTH) {
          const Vec n = load_wide(x + c) * scale, w = load(p.weight + c);
          Vec d = load_wide(d_output + out + c);
          if (gate) {
            const Vec s = sigmoid(load_wide(gate + c));
            store_narrow(d * n * w * s * (1.0f - s), d_gate + out + c);
            d *= s;
          }
          store(own + c, load(own + c) + d * n);
          along += d * w * n;
        }
        const float mean = sum(along) / static_cast<float>(p.width);
        for (int64_t c = 0; c < p.width; c += WIDTH) {
          const Vec n = load_wide(x + c) * scale, w = load(p.weight + c);
          Vec d = load_wide(d_output + out + c) * w;
          if (gate) d *= sigmoid(load_wide(gate + c));
          store_narrow((d - n * mean) * scale, dx + out + c);
        }
      }
  }
  shares.total(d_weight);
}

// y = silu(x[:width]) x[width:]
template <typename T>
void swiglu_forward(int64_t rows, int64_t width, const T* x, T* output, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const T *gate = x + row * 2 * width, *up = gate + width;
    for (int64_t c = 0; c < width; c += WIDTH) {
      const Vec g = load_wide(gate + c);
      store_narrow(g * sigmoid_of<T>(g) * load_wide(up + c), output + row * width + c);
    }
  }
}

template <typename T>
void swiglu_backward(int64_t rows, int64_t width, const T* x, const T* d_output, T* dx,
                     int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t row = 0; row < rows; ++row) {
    const T *gate = x + row * 2 * width, *up = gate + width;
    T *d_gate = dx + row * 2 * width, *d_up = d_gate + width;
    for (int64_t c = 0; c < width; c += WIDTH) {
      const Vec g = load_wide(gate + c), s = sigmoid(g);
      const Vec d = load_wide(d_output + row * width + c);
      store_narrow(d * load_wide(up + c) * s * (1.0f + g * (1.0f - s)), d_gate + c);
      store_narrow(d * g * s, d_up + c);
    }
  }
}

// y = LayerNorm(m + sigmoid(z) (t - m)) w + b
struct BlendNorm {
  int64_t rows, width;
  const void *m, *t, *z;
  const float *weight, *bias;
  float eps;
};

struct Moments {
  float mean, scale;
};

// Writes the blend into `blend` and gives its moments.
template <typename T>
Moments blend_row(const BlendNorm& p, int64_t row, float* blend) {
  const int64_t at = row * p.width;
  const T *m = static_cast<const T*>(p.m) + at, *t = static_cast<const T*>(p.t) + at,
          *z = static_cast<const T*>(p.z) + at;
  Vec total{};
  for (int64_t c = 0; c < p.width; c += WIDTH) {
    const Vec low = load_wide(m + c);
    const Vec a = low + sigmoid_of<T>(load_wide(z + c)) * (load_wide(t + c) - low);
    store(blend + c, a);
    total += a;
  }
  const float mean = sum(total) / static_cast<float>(p.width);
  Vec squares{};
  for (int64_t c = 0; c < p.width; c += WIDTH) {
    const Vec a = load(blend + c) - mean;
    squares += a * a;
  }
  const float variance = sum(squares) / static_cast<float>(p.width);
  return {mean, 1.0f / std::sqrt(variance + p.eps)};
}

template <typename T>
void blend_norm_forward(const BlendNorm& p, T* output, int threads) {
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(padded(p.width));
    float* blend = scratch.take(p.width);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < p.rows; ++row) {
      const Moments moments = blend_row<T>(p, row, blend);
      for (int64_t c = 0; c < p.width; c += WIDTH) {
        const Vec n = (load(blend + c) - moments.mean) * moments.scale;
        store_narrow(n * load(p.weight + c) + load(p.bias + c),
                     output + row * p.width + c);
      }
    }
  }
}

template <typename T>
void blend_norm_backward(const BlendNorm& p, const T* d_output, T* dm, T* dt, T* dz,
                         float* d_weight, float* d_bias, int threads) {
  Shares weights(threads, p.width), biases(threads, p.width);
  const float width = static_cast<float>(p.width);
#pragma omp parallel num_threads(threads)
  {
    Scratch scratch(padded(p.width));
    float *blend = scratch.take(p.width), *own_w = weights.own(), *own_b = biases.own();
#pragma omp for schedule(static)
    for (int64_t row = 0; row < p.rows; ++row) {
      const Moments moments = blend_row<T>(p, row, blend);
      const int64_t at = row * p.width;
      Vec plain{}, along{};
      for (int64_t c = 0; c < p.width; c += WIDTH) {
        const Vec n = (load(blend + c) - moments.mean) * moments.scale;
        const Vec d = load_wide(d_output + at + c);
        store(own_w + c, load(own_w + c) + d * n);
        store(own_b + c, load(own_b + c) + d);
        const Vec dn = d * load(p.weight + c);
        plain += dn;
        along += dn * n;
      }
      const float mean = sum(plain) / width, mean_along = sum(along) / width;
      const T *m = static_cast<const T*>(p.m) + at,
              *t = static_cast<const T*>(p.t) + at,
              *z = static_cast<const T*>(p.z) + at;
      for (int64_t c = 0; c < p.width; c += WIDTH) {
        const Vec n = (load(blend + c) - moments.mean) * moments.scale;
        const Vec dn = load_wide(d_output + at + c) * load(p.weight + c);
        const Vec da = (dn - mean - n * mean_along) * moments.scale;
        const Vec s = sigmoid(load_wide(z + c));
        store_narrow(da * (1.0f - s), dm + at + c);
        store_narrow(da * s, dt + at + c);
        store_narrow(da * (load_wide(t + c) - load_wide(m + c)) * s * (1.0f - s),
                     dz + at + c);
      }
    }
  }
  weights.total(d_weight);
  biases.total(d_bias);
}

RmsNorm rms_norm(const int64_t* sizes, const void* const* inputs, const float* weight,
                 float eps) {
  return {sizes[0],  sizes[1],  sizes[2], sizes[3], sizes[4],
          inputs[0], inputs[1], weight,   eps};
}

BlendNorm blend_norm(const int64_t* sizes, const void* const* inputs,
                     const float* weight, const float* bias, float eps) {
  return {sizes[0], sizes[1], inputs[0], inputs[1], inputs[2], weight, bias, eps};
}

}  // namespace
}  // namespace crossdna

extern "C" {

void crossdna_rms_norm_forward(const int64_t* sizes, const void* const* inputs,
                               const float* weight, float eps, void* output, int bf16,
                               int threads) {
  using namespace crossdna;
  const RmsNorm p = rms_norm(sizes, inputs, weight, eps);
  if (bf16)
    rms_norm_forward(p, static_cast<bfloat16*>(output), threads);
  else
    rms_norm_forward(p, static_cast<float*>(output), threads);
}

// gradients: dx, d_gate (null without a gate).
void crossdna_rms_norm_backward(const int64_t* sizes, const void* const* inputs,
                                const float* weight, float eps, const void* d_output,
                                void* const* gradients, float* d_weight, int bf16,
                                int threads) {
  using namespace crossdna;
  const RmsNorm p = rms_norm(sizes, inputs, weight, eps);
  if (bf16)
    rms_norm_backward(p, static_cast<const bfloat16*>(d_output),
                      static_cast<bfloat16*>(gradients[0]),
                      static_cast<bfloat16*>(gradients[1]), d_weight, threads);
  else
    rms_norm_backward(p, static_cast<const float*>(d_output),
                      static_cast<float*>(gradients[0]),
                      static_cast<float*>(gradients[1]), d_weight, threads);
}

void crossdna_swiglu_forward(const int64_t* sizes, const void* x, void* output,
                             int bf16, int threads) {
  using namespace crossdna;
  if (bf16)
    swiglu_forward(sizes[0], sizes[1], static_cast<const bfloat16*>(x),
                   static_cast<bfloat16*>(output), threads);
  else
    swiglu_forward(sizes[0], sizes[1], static_cast<const float*>(x),
                   static_cast<float*>(output), threads);
}

void crossdna_swiglu_backward(const int64_t* sizes, const void* x, const void* d_output,
                              void* dx, int bf16, int threads) {
  using namespace crossdna;
  if (bf16)
    swiglu_backward(sizes[0], sizes[1], static_cast<const bfloat16*>(x),
                    static_cast<const bfloat16*>(d_output), static_cast<bfloat16*>(dx),
                    threads);
  else
    swiglu_backward(sizes[0], sizes[1], static_cast<const float*>(x),
                    static_cast<const float*>(d_output), static_cast<float*>(dx),
                    threads);
}

void crossdna_blend_norm_forward(const int64_t* sizes, const void* const* inputs,
                                 const float* weight, const float* bias, float eps,
                                 void* output, int bf16, int threads) {
  using namespace crossdna;
  const BlendNorm p = blend_norm(sizes, inputs, weight, bias, eps);
  if (bf16)
    blend_norm_forward(p, static_cast<bfloat16*>(output), threads);
  else
    blend_norm_forward(p, static_cast<float*>(output), threads);
}

// gradients: dm, dt, dz; sums: d_weight, d_bias.
void crossdna_blend_norm_backward(const int64_t* sizes, const void* const* inputs,
                                  const float* weight, const float* bias, float eps,
                                  const void* d_output, void* const* gradients,
                                  float* const* sums, int bf16, int threads) {
  using namespace crossdna;
  const BlendNorm p = blend_norm(sizes, inputs, weight, bias, eps);
  if (bf16)
    blend_norm_backward(p, static_cast<const bfloat16*>(d_output),
                        static_cast<bfloat16*>(gradients[0]),
                        static_cast<bfloat16*>(gradients[1]),
                        static_cast<bfloat16*>(gradients[2]), sums[0], sums[1], threads);
  else
    blend_norm_backward(p, static_cast<const float*>(d_output),
                        static_cast<float*>(gradients[0]),
                        static_cast<float*>(gradients[1]),
                        static_cast<float*>(gradients[2]), sums[0], sums[1], threads);
}
}
