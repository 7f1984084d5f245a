// Causal sliding-window attention with rotary positions, forward and backward.
//
// Queries are taken LANES at a time, one per vector lane, so that scores, maxima and sums
// never cross lanes: with Q^T (width, LANES) a score is one broadcast of k_j[d] times a
// row of Q^T, and the output O^T accumulates broadcasts of v_j[d] times the weights. Keys
// pass in blocks under a running maximum. Rotation is relative to the first key of a
// block of BLOCK queries: only differences of positions matter, so a table of
// window + BLOCK angles serves any length.
#pragma once

#include "common.h"

namespace crossdna {
namespace {

constexpr int64_t BLOCK = 512;  // queries that share one rotated copy of their keys
constexpr int KEYS = 64;        // keys between two looks at the running maximum
constexpr int GROUP = 4;        // keys or channels in registers at a time
constexpr float FAR = -1e30f;   // below every score, but finite: FAR - FAR is 0

// Vectors of queries at a time. AVX2 loads two numbers per cycle and multiplies two: only
// a broadcast that serves two vectors leaves its multipliers no time to wait.
#if defined(__AVX__) && !defined(__AVX512F__)
constexpr int VECTORS = 2;
#else
constexpr int VECTORS = 1;
#endif
constexpr int LANES = VECTORS * WIDTH;  // queries at a time
static_assert(LANES <= PAD, "rows of queries are read into PAD rows");

// One number for each of LANES queries.
struct Queries {
  Vec part[VECTORS];
};

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
  int64_t groups() const { return (to - from + LANES - 1) / LANES; }
};

inline Range range(const Problem& p, int64_t block) {
  Range r;
  r.from = p.first_query() + block * BLOCK;
  r.to = r.from + BLOCK < p.total ? r.from + BLOCK : p.total;
  r.low = r.from - p.window + 1 > 0 ? r.from - p.window + 1 : 0;
  return r;
}

inline int64_t most_keys(const Problem& p) {
  const int64_t n = p.window - 1 + BLOCK < p.total ? p.window - 1 + BLOCK : p.total;
  return n + KEYS;
}

// Turns a row by the angle of its position; direction -1 turns it back.
inline void rotate(const Problem& p, int64_t position, float direction, float* row) {
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

// Rotated queries [first, first + LANES), scaled so that weights are powers of two.
template <typename T>
void read_queries(const Problem& p, int64_t b, int64_t h, const Range& r, int64_t first,
                  float* rows) {
  const int64_t wp = padded(p.width);
  const float scale = 1.44269504f / std::sqrt(static_cast<float>(p.width));
  for (int64_t i = 0; i < LANES; ++i) {
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
CROSSDNA_APART inline void scores(int64_t count, int64_t width, int64_t wp,
                                  const float* x, const float* turned, float* out) {
  for (int64_t j = 0; j < count; j += GROUP) {
    Vec acc[GROUP][VECTORS] = {};
    const float* row = x + j * wp;
    for (int64_t d = 0; d < width; ++d) {
      Vec q[VECTORS];
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n)
        q[n] = held(load(turned + d * LANES + n * WIDTH));
#pragma GCC unroll 4
      for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 2
        for (int n = 0; n < VECTORS; ++n) acc[g][n] += row[g * wp + d] * q[n];
    }
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n)
        store(out + (j + g) * LANES + n * WIDTH, acc[g][n]);
  }
}

// Adds sum_j x_j[d] weights[j] to out[d], d in [0, width padded to 2 * GROUP).
CROSSDNA_APART inline void gather(int64_t count, int64_t wp, int64_t width,
                                  const float* x, const float* weights, float* out) {
  constexpr int WIDE = 2 * GROUP / VECTORS;
  for (int64_t d = 0; d < width; d += WIDE) {
    Vec acc[WIDE][VECTORS];
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g)
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n)
        acc[g][n] = load(out + (d + g) * LANES + n * WIDTH);
    for (int64_t j = 0; j < count; ++j) {
      Vec w[VECTORS];
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n)
        w[n] = held(load(weights + j * LANES + n * WIDTH));
#pragma GCC unroll 8
      for (int g = 0; g < WIDE; ++g)
#pragma GCC unroll 2
        for (int n = 0; n < VECTORS; ++n) acc[g][n] += x[j * wp + d + g] * w[n];
    }
#pragma GCC unroll 8
    for (int g = 0; g < WIDE; ++g)
#pragma GCC unroll 2
      for (int n = 0; n < VECTORS; ++n)
        store(out + (d + g) * LANES + n * WIDTH, acc[g][n]);
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

inline IntVec query_visibility(const Problem& p, int64_t b, int64_t first) {
  IntVec x{};
  if (p.visible)
    for (int64_t i = 0; i < WIDTH && first + i < p.total; ++i)
      x[i] = -static_cast<int32_t>(p.visible[b * p.total + first + i]);
  return x;
}

// The largest of `count` scores, lane by lane; several chains hide the latency.
inline Vec highest(int64_t count, const float* s) {
  Vec top[GROUP];
  for (int g = 0; g < GROUP; ++g) top[g] = load(s + g * LANES);
  for (int64_t j = GROUP; j < count; j += GROUP)
#pragma GCC unroll 4
    for (int g = 0; g < GROUP; ++g) top[g] = maximum(load(s + (j + g) * LANES), top[g]);
  return maximum(maximum(top[0], top[1]), maximum(top[2], top[3]));
}

// Removes the scores of keys that are not seen and of the rows that fill up the last
// group. Inside the window all lanes see all keys.
inline void hide(const Problem& p, int64_t b, int64_t first, int64_t start,
                 int64_t count, float* s) {
  for (int64_t j = count; j < grouped(count); ++j)
    for (int n = 0; n < LANES; n += WIDTH) store(s + j * LANES + n, splat(-INFINITY));
  const int64_t low = first + LANES - p.window;  // all see [low, first]
  if (start >= low && start + count - 1 <= first && !p.visible) return;
  for (int n = 0; n < LANES; n += WIDTH) {
    const IntVec query_visible = query_visibility(p, b, first + n);
    for (int64_t j = 0; j < count; ++j) {
      if (start + j >= low && start + j <= first && !p.visible) continue;
      const IntVec seen = sees(p, b, first + n, start + j, query_visible);
      float* at = s + j * LANES + n;
      store(at, select(seen, load(at), splat(-INFINITY)));
    }
  }
}

// The keys that LANES queries from `first` can see: [begin, end), positions.
struct Span {
  int64_t begin, end;
};
inline Span span(const Problem& p, const Range& r, int64_t first) {
  const int64_t low = first - p.window + 1 > r.low ? first - p.window + 1 : r.low;
  // An even number of keys from the block's first: pairs of keys stay together.
  return {low - (low - r.low) % 2, first + LANES < r.to ? first + LANES : r.to};
}

// Turns LANES rows (LANES, wp) into (wp, LANES).
inline void turn(int64_t wp, const float* rows, float* turned) {
  transpose(LANES, wp, rows, wp, turned, LANES);
}

// sizes: batch, length, past + length, heads, width, window; strides: three for each of
// q, k, v, past k, past v.
inline Problem problem(const int64_t* sizes, const int64_t* strides, const void* const* x,
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
