// The selective scan, forward and backward, one task per sequence and vector of channels.
//
// The state of WIDTH channels stays in registers while time runs. The backward pass
// starts each segment from the state that the forward pass left there and keeps the
// segment's states and decays in the cache.
#include "common.h"

// Declared here because omp.h belongs to the runtime that is not linked.
extern "C" int omp_get_thread_num(void);

namespace crossdna {
namespace {

constexpr int MAX_STATES = 64;
constexpr float LOG2E = 1.44269504f;

struct Problem {
  int64_t batch, length, channels, states, segment;
  // u, delta (batch, length, channels); A (states, channels); B, C (batch, length,
  // states); D (channels); start (batch, states, channels); all contiguous.
  const float *u, *delta, *A, *B, *C, *D, *start;
  int64_t blocks() const { return (channels + WIDTH - 1) / WIDTH; }
  int64_t segments() const { return (length + segment - 1) / segment; }
};

// The channels of one task; the last block may be narrower than a vector.
struct Block {
  int64_t first, count;
  Vec read(const float* row) const {
    if (count == WIDTH) return load(row + first);
    Vec x{};
    std::memcpy(&x, row + first, count * 4);
    return x;
  }
  void write(Vec x, float* row) const {
    if (count == WIDTH)
      store(row + first, x);
    else
      std::memcpy(row + first, &x, count * 4);
  }
};

Block block(const Problem& p, int64_t index) {
  const int64_t first = index * WIDTH, rest = p.channels - first;
  return {first, rest < WIDTH ? rest : WIDTH};
}

// STATES is 0 where the number of states is only known when running.
template <int STATES>
void forward_task(const Problem& p, int64_t b, Block at, float* y, float* end,
                  float* saved) {
  const int states = STATES ? STATES : static_cast<int>(p.states);
  Vec h[STATES ? STATES : MAX_STATES], a[STATES ? STATES : MAX_STATES];
#pragma GCC unroll 16
  for (int n = 0; n < states; ++n) {
    h[n] = at.read(p.start + (b * states + n) * p.channels);
    a[n] = at.read(p.A + n * p.channels) * LOG2E;
  }
  const Vec skip = at.read(p.D);
  for (int64_t t = 0; t < p.length; ++t) {
    const int64_t row = b * p.length + t;
    if (saved && t % p.segment == 0) {
      float* to = saved + (b * p.segments() + t / p.segment) * states * p.channels;
      for (int n = 0; n < states; ++n) at.write(h[n], to + n * p.channels);
    }
    const Vec x = at.read(p.u + row * p.channels);
    const Vec dt = at.read(p.delta + row * p.channels), drive = dt * x;
    const float *B = p.B + row * states, *C = p.C + row * states;
    Vec out = skip * x;
#pragma GCC unroll 16
    for (int n = 0; n < states; ++n) {
      h[n] = exp2_fast(dt * a[n]) * h[n] + drive * B[n];
      out += h[n] * C[n];
    }
    at.write(out, y + row * p.channels);
  }
  for (int n = 0; n < states; ++n)
    at.write(h[n], end + (b * states + n) * p.channels);
}

void forward(const Problem& p, float* y, float* end, float* saved, int threads) {
  const int64_t tasks = p.batch * p.blocks();
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t task = 0; task < tasks; ++task) {
    const Block at = block(p, task % p.blocks());
    if (p.states == 16)
      forward_task<16>(p, task / p.blocks(), at, y, end, saved);
    else
      forward_task<0>(p, task / p.blocks(), at, y, end, saved);
  }
}

struct Gradients {
  // du, d_delta like u; dA, d_start (batch, states, channels); dD (batch, channels).
  float *u, *delta, *A, *D, *start;
  // dB, dC (batch, length, states), added to.
  float *B, *C;
};

// States before and decays at each position of a segment.
struct Segment {
  float *states, *decays;
  int64_t first, end;
};

void replay(const Problem& p, int64_t b, Block at, const Vec* a, const float* saved,
            Segment s) {
  const int64_t states = p.states;
  Vec h[MAX_STATES];
  for (int64_t n = 0; n < states; ++n) h[n] = at.read(saved + n * p.channels);
  for (int64_t t = s.first; t < s.end; ++t) {
    const int64_t row = b * p.length + t, place = (t - s.first) * states * WIDTH;
    const Vec x = at.read(p.u + row * p.channels);
    const Vec dt = at.read(p.delta + row * p.channels), drive = dt * x;
    const float* B = p.B + row * states;
    for (int64_t n = 0; n < states; ++n) {
      const Vec decay = exp2_fast(dt * (a[n] * LOG2E));
      store(s.states + place + n * WIDTH, h[n]);
      store(s.decays + place + n * WIDTH, decay);
      h[n] = decay * h[n] + drive * B[n];
    }
  }
}

void backward_task(const Problem& p, int64_t b, Block at, const float* saved,
                   const float* d_y, const float* d_end, const Gradients& to,
                   float* scratch) {
  const int64_t states = p.states, size = p.segment * states * WIDTH;
  Vec a[MAX_STATES], d_a[MAX_STATES], g[MAX_STATES];
  for (int64_t n = 0; n < states; ++n) {
    a[n] = at.read(p.A + n * p.channels);
    g[n] = at.read(d_end + (b * states + n) * p.channels);
    d_a[n] = Vec{};
  }
  const Vec skip = at.read(p.D);
  Vec d_skip{};
  for (int64_t i = p.segments() - 1; i >= 0; --i) {
    const int64_t first = i * p.segment, last = first + p.segment;
    const Segment s{scratch, scratch + size, first, last < p.length ? last : p.length};
    replay(p, b, at, a, saved + (b * p.segments() + i) * states * p.channels, s);
    for (int64_t t = s.end - 1; t >= first; --t) {
      const int64_t row = b * p.length + t, place = (t - first) * states * WIDTH;
      const Vec x = at.read(p.u + row * p.channels), dt = at.read(p.delta + row * p.channels);
      const Vec dy = at.read(d_y + row * p.channels), drive = dt * x;
      const float *B = p.B + row * states, *C = p.C + row * states;
      float *d_B = to.B + row * states, *d_C = to.C + row * states;
      Vec d_drive{}, d_dt{};
      for (int64_t n = 0; n < states; ++n) {
        const Vec before = load(s.states + place + n * WIDTH);
        const Vec decay = load(s.decays + place + n * WIDTH);
        const Vec after = decay * before + drive * B[n];
        const Vec total = g[n] + dy * C[n];
        d_C[n] += sum(dy * after);
        d_B[n] += sum(total * drive);
        d_drive += total * B[n];
        g[n] = total * decay;
        const Vec exponent = g[n] * before;
        d_dt += exponent * a[n];
        d_a[n] += exponent * dt;
      }
      at.write(d_drive * dt + skip * dy, to.u + row * p.channels);
      at.write(d_dt + d_drive * x, to.delta + row * p.channels);
      d_skip += dy * x;
    }
  }
  for (int64_t n = 0; n < states; ++n) {
    at.write(d_a[n], to.A + (b * states + n) * p.channels);
    at.write(g[n], to.start + (b * states + n) * p.channels);
  }
  at.write(d_skip, to.D + b * p.channels);
}

void backward(const Problem& p, const float* saved, const float* d_y,
              const float* d_end, Gradients to, int threads) {
  const int64_t tasks = p.batch * p.blocks(), inner = p.batch * p.length * p.states;
  // dB and dC sum over channels: each thread has its own, added up in a fixed order.
  Scratch shares(2 * padded(inner) * threads);
  float* share = shares.take(2 * padded(inner) * threads);
#pragma omp parallel num_threads(threads)
  {
    const int64_t room = 2 * p.segment * p.states * WIDTH;
    Scratch scratch(padded(room));
    float* own = share + omp_get_thread_num() * 2 * padded(inner);
    Gradients mine = to;
    mine.B = own;
    mine.C = own + padded(inner);
    float* memory = scratch.take(room);
#pragma omp for schedule(static)
    for (int64_t task = 0; task < tasks; ++task)
      backward_task(p, task / p.blocks(), block(p, task % p.blocks()), saved, d_y, d_end,
                    mine, memory);
  }
  for (int i = 0; i < threads; ++i) {
    const float* from = share + i * 2 * padded(inner);
    for (int64_t j = 0; j < inner; ++j) {
      to.B[j] += from[j];
      to.C[j] += from[padded(inner) + j];
    }
  }
}

// sizes: batch, length, channels, states, segment; inputs in the order of Problem.
Problem problem(const int64_t* sizes, const float* const* in) {
  return {sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], in[0],
          in[1],    in[2],    in[3],    in[4],    in[5],    in[6]};
}

}  // namespace
}  // namespace crossdna

extern "C" {

// outputs: y, state, states at the start of each segment (null if not wanted).
void crossdna_selective_scan_forward(const int64_t* sizes, const float* const* inputs,
                                     float* const* outputs, int threads) {
  using namespace crossdna;
  forward(problem(sizes, inputs), outputs[0], outputs[1], outputs[2], threads);
}

// gradients: of u, delta, A (per sequence), B, C, D (per sequence), start; those of B
// and C must hold zeros.
void crossdna_selective_scan_backward(const int64_t* sizes, const float* const* inputs,
                                      const float* saved, const float* d_y,
                                      const float* d_end, float* const* gradients,
                                      int threads) {
  using namespace crossdna;
  const Gradients to{gradients[0], gradients[1], gradients[2], gradients[5],
                     gradients[6], gradients[3], gradients[4]};
  backward(problem(sizes, inputs), saved, d_y, d_end, to, threads);
}
}
