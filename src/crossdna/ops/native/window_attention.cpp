// Causal sliding-window attention with rotary positions, forward and backward.
//
// Queries are taken WIDTH at a time, one per vector lane, so that scores, maxima and sums
// never cross lanes: with Q^T (width, WIDTH) a score is one broadcast of k_j[d] times a
// row of Q^T, and the output O^T accumulates broadcasts of v_j[d] times the weights. Keys
// pass in blocks under a running maximum. Rotation is relative to the first key of a
// block of BLOCK queries: only differences of positions matter, so a table of
// window + BLOCK angles serves any length.
#include "common.h"

namespace crossdna {
namespace {

constexpr int64_t BLOCK = 512;  // queries that share one rotated copy of their keys
constexpr int KEYS = 64;        // keys between two looks at the running maximum
constexpr int GROUP = 4;        // keys or channels in registers at a time
constexpr float FAR = -1e30f;   // below every score, but finite: FAR - FAR is 0

inline int64_t grouped(int64_t n) { return (n + GROUP - 1) / GROUP * GROUP; }

struct Strides {
  int64_t batch, length, head;
  int64_t at(int64_t b, int64_t t, int64_t h) const {
    return b * batch + t * length + h * head;
  }
};

struct Problem {
  int64_t batch, length, total, heads, width, window;
  const void *q, *k, *v, *past_k, *past_v;
  Strides qs, ks, vs, past_ks, past_vs;
  const uint8_t* visible;  // (batch, total) or null; total = past + length
  const float *cosines, *sines;
  int64_t first_query() const { return total - length; }
  int64_t blocks() const { return (length + BLOCK - 1) / BLOCK; }
};

// One block of queries [from, to) and the keys [low, to) that they can see; positions
// in the whole sequence. Matrices have padded width, rows beyond the block are zero.
struct Range {
  int64_t from, to, low;
  int64_t keys() const { return to - low; }
  int64_t groups() const { return (to - from + WIDTH - 1) / WIDTH; }
};

Range range(const Problem& p, int64_t block) {
  Range r;
  r.from = p.first_query() + block * BLOCK;
  r.to = r.from + BLOCK < p.total ? r.from + BLOCK : p.total;
  r.low = r.from - p.window + 1 > 0 ? r.from - p.window + 1 : 0;
  return r;
}

int64_t most_keys(const Problem& p) {
  const int64_t n = p.window - 1 + BLOCK < p.total ? p.window - 1 + BLOCK : p.total;
  return n + KEYS;
}

// Turns a row by the angle of its position; direction -1 turns it back.
void rotate(const Problem& p, int64_t position, float direction, float* row) {
  typedef float Eight __attribute__((vector_size(32), aligned(4)));
  const int64_t half = p.width / 2;
  const float *c = p.cosines + position * half, *s = p.sines + position * half;
  int64_t d = 0;
  for (; d + 8 <= half; d += 8) {
    Eight *first = reinterpret_cast<Eight*>(row + d);
    Eight *second = reinterpret_cast<Eight*>(row + d + half);
    const Eight cosine = *reinterpret_cast<const Eight*>(c + d);
    const Eight sine = *reinterpret_cast<const Eight*>(s + d) * direction;
    const Eight x = *first, y = *second;
    *first = x * cosine - y * sine;
    *second = y * cosine + x * sine;
  }
  for (; d < half; ++d) {
    const float x = row[d], y = row[d + half], sine = direction * s[d];
    row[d] = x * c[d] - y * sine;
    row[d + half] = y * c[d] + x * sine;
  }
}

template <typename T>
void read_keys(const Problem& p, int64_t b, int64_t h, const Range& r, float* k,
               float* v) {
  const int64_t wp = padded(p.width);
  for (int64_t j = r.low; j < r.to; ++j) {
    const int64_t t = j - p.first_query();
    const T* key = t < 0 ? static_cast<const T*>(p.past_k) + p.past_ks.at(b, j, h)
                         : static_cast<const T*>(p.k) + p.ks.at(b, t, h);
    const T* value = t < 0 ? static_cast<const T*>(p.past_v) + p.past_vs.at(b, j, h)
                           : static_cast<const T*>(p.v) + p.vs.at(b, t, h);
    float* row = k + (j - r.low) * wp;
    read_row(key, p.width, wp, row);
    rotate(p, j - r.low, 1.0f, row);
    read_row(value, p.width, wp, v + (j - r.low) * wp);
  }
  // Scores are taken GROUP keys at a time.
  std::memset(k + r.keys() * wp, 0, GROUP * wp * 4);
  std::memset(v + r.keys() * wp, 0, GROUP * wp * 4);
}

// Rotated queries [first, first + WIDTH), scaled so that weights are powers of two.
template <typename T>
void read_queries(const Problem& p, int64_t b, int64_t h, const Range& r, int64_t first,
                  float* rows) {
  const int64_t wp = padded(p.width);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(p.width));
  for (int64_t i = 0; i < WIDTH; ++i) {
    float* row = rows + i * wp;
    const int64_t position = first + i;
    if (position >= r.to) {
      std::memset(row, 0, wp * 4);
      continue;
    }
    const T* q = static_cast<const T*>(p.q);
    read_row(q + p.qs.at(b, position - p.first_query(), h), p.width, wp, row);
    rotate(p, position - r.low, 1.0f, row);
    for (int64_t d = 0; d < wp; d += WIDTH) store(row + d, load(row + d) * scale);
  }
}

// out[j] = x_j . Q^T for `count` rows x_j, a multiple of GROUP.
inline void scores(int64_t count, int64_t width, int64_t wp, const float* x,
                   const float* turned, float* out) {
  for (int64_t j = 0; j < count; j += GROUP) {
    Vec acc[GROUP] = {};
    const float* row = x + j * wp;
    for (int64_t d = 0; d < width; ++d) {
      const Vec q = load(turned + d * WIDTH);
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g) acc[g] += row[g * wp + d] * q;
    }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) store(out + (j + g) * WIDTH, acc[g]);
  }
}

// Adds sum_j x_j[d] weights[j] to out[d], d in [0, width padded to GROUP).
inline void gather(int64_t count, int64_t wp, int64_t width, const float* x,
                   const float* weights, float* out) {
  constexpr int WIDE = 2 * GROUP;
  for (int64_t d = 0; d < width; d += WIDE) {
    Vec acc[WIDE];
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g) acc[g] = load(out + (d + g) * WIDTH);
    for (int64_t j = 0; j < count; ++j) {
      const Vec w = load(weights + j * WIDTH);
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) acc[g] += x[j * wp + d + g] * w;
    }
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g) store(out + (d + g) * WIDTH, acc[g]);
  }
}

inline IntVec lanes() {
  IntVec x{};
  for (int i = 0; i < WIDTH; ++i) x[i] = i;
  return x;
}

// Which lanes (queries first + lane) see key j; all ones where seen.
inline IntVec sees(const Problem& p, int64_t b, int64_t first, int64_t j,
                   IntVec query_visible) {
  const IntVec distance = lanes() + static_cast<int32_t>(first - j);
  IntVec seen = (distance >= 0) & (distance < static_cast<int32_t>(p.window));
  if (p.visible)
    seen = (seen & query_visible & -static_cast<int32_t>(p.visible[b * p.total + j])) |
           (distance == 0);
  return seen;
}

IntVec query_visibility(const Problem& p, int64_t b, int64_t first) {
  IntVec x{};
  if (p.visible)
    for (int64_t i = 0; i < WIDTH && first + i < p.total; ++i)
      x[i] = -static_cast<int32_t>(p.visible[b * p.total + first + i]);
  return x;
}

// The largest of `count` scores, lane by lane; several chains hide the latency.
inline Vec highest(int64_t count, const float* s) {
  Vec top[GROUP];
  for (int g = 0; g < GROUP; ++g) top[g] = load(s + g * WIDTH);
  for (int64_t j = GROUP; j < count; j += GROUP)
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) top[g] = maximum(load(s + (j + g) * WIDTH), top[g]);
  return maximum(maximum(top[0], top[1]), maximum(top[2], top[3]));
}

// Removes the scores of keys that are not seen and of the rows that fill up the last
// group. Inside the window all lanes see all keys.
inline void hide(const Problem& p, int64_t b, int64_t first, IntVec query_visible,
                 int64_t start, int64_t count, float* s) {
  for (int64_t j = count; j < grouped(count); ++j) store(s + j * WIDTH, splat(-INFINITY));
  const bool inside =
      start > first + WIDTH - 1 - p.window && start + count - 1 <= first;
  if (inside && !p.visible) return;
  for (int64_t j = 0; j < count; ++j) {
    const IntVec seen = sees(p, b, first, start + j, query_visible);
    store(s + j * WIDTH, select(seen, load(s + j * WIDTH), splat(-INFINITY)));
  }
}

// The keys that WIDTH queries from `first` can see: [begin, end), positions.
struct Span {
  int64_t begin, end;
};
Span span(const Problem& p, const Range& r, int64_t first) {
  const int64_t low = first - p.window + 1 > r.low ? first - p.window + 1 : r.low;
  // An even number of keys from the block's first: pairs of keys stay together.
  return {low - (low - r.low) % 2, first + WIDTH < r.to ? first + WIDTH : r.to};
}

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

// Turns WIDTH rows (WIDTH, wp) into (wp, WIDTH).
inline void turn(int64_t wp, const float* rows, float* turned) {
  transpose(WIDTH, wp, rows, wp, turned, WIDTH);
}

// The products of the forward pass, in float32.
struct Float32Products {
  static void pack_keys(int64_t, int64_t, float*, float*) {}
  static void pack_queries(int64_t wp, float* rows, float* turned) {
    turn(wp, rows, turned);
  }
  static void score(int64_t count, int64_t width, int64_t wp, const float* k,
                    int64_t from, const float* turned, float* s) {
    scores(count, width, wp, k + from * wp, turned, s);
  }
  // Turns scores into weights relative to `top`; returns their sum.
  static Vec weigh(int64_t count, Vec top, float* s) {
    Vec total{};
    for (int64_t j = 0; j < count; ++j) {
      const Vec e = exp2_fast(load(s + j * WIDTH) - top);
      total += e;
      store(s + j * WIDTH, e);
    }
    return total;
  }
  static void add(int64_t count, int64_t width, int64_t wp, const float* v,
                  int64_t from, const float* s, float* o) {
    gather(count, wp, width, v + from * wp, s, o);
  }
};

#if defined(__AVX512BF16__)
// The same for bfloat16 operands, two products in one instruction, sums in float32.
// A row of keys is a row of bfloat16; values and weights of two keys share 32 bits.
struct BFloat16Products {
  static void pack_keys(int64_t count, int64_t wp, float* k, float* v) {
    auto* rows = reinterpret_cast<bfloat16*>(k);
    // In place: what is written never passes what is yet to be read.
    for (int64_t i = 0; i < count * wp; i += WIDTH) store_narrow(load(k + i), rows + i);
    for (int64_t j = 0; j < count; j += 2)
      for (int64_t d = 0; d < wp; d += WIDTH) {
        const IntVec even = (IntVec)load(v + j * wp + d);
        const IntVec odd = (IntVec)load(v + (j + 1) * wp + d);
        store(v + j / 2 * wp + d, join(even, odd));
      }
  }
  static void pack_queries(int64_t wp, float* rows, float* turned) {
    // Pairs of channels are numbers of 32 bits here: shorter rows, rewritten in place.
    const int64_t pairs = padded(wp / 2);
    for (int64_t i = 0; i < WIDTH; ++i)
      for (int64_t d = 0; d < wp; d += WIDTH)
        store_narrow(load(rows + i * wp + d),
                     reinterpret_cast<bfloat16*>(rows + i * pairs) + d);
    transpose(WIDTH, pairs, rows, pairs, turned, WIDTH);
  }
  static void score(int64_t count, int64_t width, int64_t wp, const float* k,
                    int64_t from, const float* turned, float* s) {
    const float* rows = k + from * wp / 2;
    for (int64_t j = 0; j < count; j += GROUP) {
      Vec acc[GROUP] = {};
      for (int64_t d = 0; d < (width + 1) / 2; ++d) {
        const Vec q = load(turned + d * WIDTH);
#pragma GCC unroll 4
        for (int g = 0; g < GROUP; ++g)
          acc[g] = multiply_add(acc[g], rows[(j + g) * wp / 2 + d], q);
      }
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g) store(s + (j + g) * WIDTH, acc[g]);
    }
  }
  static Vec weigh(int64_t count, Vec top, float* s) {
    Vec total{};
    for (int64_t j = 0; j < count; j += 2) {
      const Vec even = exp2_coarse(load(s + j * WIDTH) - top);
      const Vec odd = exp2_coarse(load(s + (j + 1) * WIDTH) - top);
      total += even + odd;
      store(s + j / 2 * WIDTH, join((IntVec)even + 0x8000, (IntVec)odd + 0x8000));
    }
    return total;
  }
  static void add(int64_t count, int64_t width, int64_t wp, const float* v,
                  int64_t from, const float* s, float* o) {
    constexpr int WIDE = 2 * GROUP;
    const float* rows = v + from / 2 * wp;
    for (int64_t d = 0; d < width; d += WIDE) {
      Vec acc[WIDE];
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) acc[g] = load(o + (d + g) * WIDTH);
      for (int64_t j = 0; j < count / 2; ++j) {
        const Vec w = load(s + j * WIDTH);
#pragma GCC unroll 8
        for (int g = 0; g < WIDE; ++g)
          acc[g] = multiply_add(acc[g], rows[j * wp + d + g], w);
      }
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g) store(o + (d + g) * WIDTH, acc[g]);
    }
  }

 private:
  // The upper halves of two numbers of 32 bits, `odd` above `even`.
  static Vec join(IntVec even, IntVec odd) {
    typedef uint32_t Bits __attribute__((vector_size(WIDTH * 4)));
    return (Vec)(((Bits)even >> 16) | ((Bits)odd & 0xffff0000u));
  }
  static Vec multiply_add(Vec sum, float pair, Vec pairs) {
    int32_t bits;
    std::memcpy(&bits, &pair, 4);
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(bits),
                                 (__m512bh)(__m512)pairs);
  }
};
#else
typedef Float32Products BFloat16Products;
#endif

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
    s = x.take(KEYS * WIDTH);
    ds = x.take(KEYS * WIDTH);
  }
  static int64_t floats(int64_t keys, int64_t wp) {
    return (4 * keys + 5 * PAD) * wp + 2 * KEYS * WIDTH;
  }
};

// Adds sum_i weights[j][i] rows[i] to out[j]: lanes are channels here.
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

struct Gradients {
  float *q, *k, *v;  // contiguous float32; k and v start at zero
};

template <typename T>
void backward_group(const Problem& p, int64_t b, int64_t h, const Range& r,
                    int64_t first, const T* output, const T* d_output,
                    const float* log_sums, BackwardScratch& w, Gradients& g) {
  const int64_t wp = padded(p.width);
  read_queries<T>(p, b, h, r, first, w.rows);
  turn(wp, w.rows, w.turned);
  std::memset(w.dq, 0, wp * WIDTH * 4);
  std::memset(w.d_rows, 0, wp * WIDTH * 4);
  Vec log_sum = splat(-FAR), inner{};
  for (int64_t i = 0; i < WIDTH && first + i < r.to; ++i) {
    const int64_t t = first + i - p.first_query();
    const int64_t at = ((b * p.length + t) * p.heads + h) * p.width;
    read_row(d_output + at, p.width, wp, w.d_rows + i * wp);
    float total = 0.0f;
    for (int64_t d = 0; d < p.width; ++d)
      total += widen(output[at + d]) * w.d_rows[i * wp + d];
    inner[i] = total;
    log_sum[i] = log_sums[(b * p.heads + h) * p.length + t];
  }
  turn(wp, w.d_rows, w.d_turned);
  const IntVec query_visible = query_visibility(p, b, first);
  const Span keys = span(p, r, first);
  for (int64_t start = keys.begin; start < keys.end; start += KEYS) {
    const int64_t count = keys.end - start < KEYS ? keys.end - start : KEYS;
    const int64_t at = (start - r.low) * wp;
    scores(grouped(count), p.width, wp, w.k + at, w.turned, w.s);
    hide(p, b, first, query_visible, start, count, w.s);
    scores(grouped(count), p.width, wp, w.v + at, w.d_turned, w.ds);
    for (int64_t j = 0; j < count; ++j) {
      const Vec e = exp2_fast(load(w.s + j * WIDTH) - log_sum);
      store(w.s + j * WIDTH, e);
      store(w.ds + j * WIDTH, e * (load(w.ds + j * WIDTH) - inner));
    }
    gather(count, wp, p.width, w.k + at, w.ds, w.dq);
    scatter(count, wp, w.ds, w.rows, w.dk + at);
    scatter(count, wp, w.s, w.d_rows, w.dv + at);
  }
  transpose(wp, WIDTH, w.dq, WIDTH, w.rows, wp);
  const float scale = 1.0f / std::sqrt(static_cast<float>(p.width));
  for (int64_t i = 0; i < WIDTH && first + i < r.to; ++i) {
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
    backward_group<T>(p, b, h, r, r.from + i * WIDTH, output, d_output, log_sums, w, g);
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

// sizes: batch, length, past + length, heads, width, window; strides: three for each of
// q, k, v, past k, past v.
Problem problem(const int64_t* sizes, const int64_t* strides, const void* const* x,
                const uint8_t* visible, const float* cosines, const float* sines) {
  Problem p;
  p.batch = sizes[0], p.length = sizes[1], p.total = sizes[2], p.heads = sizes[3];
  p.width = sizes[4], p.window = sizes[5];
  p.q = x[0], p.k = x[1], p.v = x[2], p.past_k = x[3], p.past_v = x[4];
  Strides* all[] = {&p.qs, &p.ks, &p.vs, &p.past_ks, &p.past_vs};
  for (int i = 0; i < 5; ++i)
    *all[i] = Strides{strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]};
  p.visible = visible, p.cosines = cosines, p.sines = sines;
  return p;
}

}  // namespace
}  // namespace crossdna

extern "C" {

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
