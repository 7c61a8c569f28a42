// From a network's outputs to keypoints in input pixels; see "Decoding" in docs/bundle-format.md for every formula.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "model.hpp"

namespace splite {

/// Keypoints of N crops, or of the people in them: `count` rows of K keypoints each.
struct Decoded {
  int count = 0;
  int keypoint_count = 0;
  std::vector<float> keypoints;  ///< (count, K, 2), x and y in input pixels
  std::vector<float> scores;     ///< (count, K), 0 to 1
  std::vector<float> depth;      ///< (count, K) relative to the root keypoint, or empty
  bool finds_people = false;
  std::vector<int> crops;            ///< (count,) of people: the crop that each was found in
  std::vector<float> boxes;          ///< (count, 4) of people, x0, y0, x1, y1 in input pixels
  std::vector<float> people_scores;  ///< (count,) of people
  std::vector<std::pair<std::string, std::vector<float>>> heads;  ///< (N,) of each head, 0 to 1
};

/// An output that a decoder reads: its axes (`NCHW`), and what each may measure, the batch left out; nothing for any size.
struct Role {
  std::string name;
  std::string layout;
  std::vector<std::vector<std::int64_t>> sizes;
};

namespace detail {

constexpr int kLanes = 8;  // of loops that compilers turn into vector instructions

/// exp(x) for x <= 0, to two units in the last place, without a call, so that loops of it are vectorised. Range reduction
/// by ln 2 in two parts and a polynomial of degree 6 of the rest (Cephes' expf has the same shape; the coefficients are
/// Taylor's, which on |r| <= ln(2) / 2 are as good).
inline float exp_of_negative(float x) {
  x = x < -87.0f ? -87.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits hold the rounded number
  const float n = shifted - 12582912.0f;
  float r = x - n * 0.693145752f;
  r = r - n * 1.42860677e-6f;
  float p = 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  std::int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  const std::uint32_t power = (static_cast<std::uint32_t>(bits) + 127u) << 23;  // the rest of the bits is shifted out
  float scale;
  std::memcpy(&scale, &power, sizeof scale);
  return p * scale;
}

inline float largest(const float* values, std::int64_t count) {
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, -std::numeric_limits<float>::infinity());
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = lanes[lane] < values[i + lane] ? values[i + lane] : lanes[lane];
  }
  for (; i < count; ++i) lanes[0] = lanes[0] < values[i] ? values[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

inline float sum(const float* values, std::int64_t count) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += values[i + lane];
  }
  float total = std::accumulate(lanes, lanes + kLanes, 0.0f);
  for (; i < count; ++i) total += values[i];
  return total;
}

inline float dot(const float* first, const float* second, std::int64_t count) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) lanes[lane] += first[i + lane] * second[i + lane];
  }
  float total = std::accumulate(lanes, lanes + kLanes, 0.0f);
  for (; i < count; ++i) total += first[i] * second[i];
  return total;
}

/// exp(beta * (values - largest)), whose sum is given back.
inline float exponentials(const float* values, std::int64_t count, float beta, float* found) {
  const float most = largest(values, count) * beta;
  for (std::int64_t i = 0; i < count; ++i) found[i] = exp_of_negative(values[i] * beta - most);
  return sum(found, count);
}

inline std::int64_t first_largest(const float* values, std::int64_t count) {
  const float most = largest(values, count);
  std::int64_t at = 0;
  while (at + 1 < count && values[at] != most) ++at;
  return at;
}

inline float sigmoid(float value) { return 0.5f * (1.0f + std::tanh(0.5f * value)); }
inline float unit(float value) { return value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value; }

inline void check_finite(const std::string& what, const float* values, std::int64_t count) {
  // A sum is finite only where every value is, unless it overflows, and then all are looked at.
  if (std::isfinite(sum(values, count))) return;
  for (std::int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(values[i])) {
      throw BackendError("The " + what + " not finite (NaN or infinity).",
                         "In fp16 a layer may overflow: run the network in fp32. Where that is not finite either, its "
                         "weights are wrong: export it from another checkpoint.");
    }
  }
}

}  // namespace detail

/// A way to read keypoints from a network's outputs. `decode` is given arrays that are finite and of the right shapes.
class Decoder {
 public:
  Decoder(const ModelSpec& model) : spec(model.decoder), k(model.keypoint_count()), h(model.input.height), w(model.input.width) {}
  virtual ~Decoder() = default;
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  /// What the network gives, in this order.
  virtual std::vector<Role> roles() const = 0;
  /// The same of a graph that decodes.
  virtual std::vector<Role> decoded_roles() const {
    std::vector<Role> found = {{"keypoints", "NKC", {{k}, {2}}}, {"scores", "NK", {{k}}}};
    if (spec.has_depth()) found.push_back({"depth", "NK", {{k}}});
    return found;
  }
  /// Keypoints of N crops; with `best`, where a crop may show several people, of each crop the best one alone.
  virtual Decoded decode(const Arrays& outputs, bool best) const = 0;
  /// What a graph that decodes has given.
  virtual Decoded read(const Arrays& outputs, bool) const {
    const Array& points = *find_array(outputs, "keypoints");
    const Array& scores = *find_array(outputs, "scores");
    Decoded found = empty(points.shape[0]);
    found.keypoints.assign(points.data, points.data + points.size());
    found.scores.assign(scores.data, scores.data + scores.size());
    if (const Array* depth = find_array(outputs, "depth"); depth != nullptr && spec.has_depth()) {
      found.depth.assign(depth->data, depth->data + depth->size());
    }
    return found;
  }
  bool decodes(const std::function<bool(const std::string&)>& has_role) const {
    return has_role(spec.finds_people() ? "candidates" : "keypoints");
  }

 protected:
  Decoded empty(std::int64_t count) const {
    Decoded made;
    made.count = static_cast<int>(count);
    made.keypoint_count = k;
    made.keypoints.resize(static_cast<std::size_t>(count * k * 2));
    made.scores.resize(static_cast<std::size_t>(count * k));
    return made;
  }

  const DecoderSpec spec;
  const int k, h, w;
};

namespace detail {

/// Where the cells of one axis of a heatmap lie: cell i is centred at edge + (i + 0.5) * step.
struct Axis {
  double edge = 0.0;
  double step = 0.0;

  static Axis of(const DecoderSpec& spec, std::int64_t cells) {
    if (spec.alignment == "corner") return {0.0, spec.stride};
    double step = spec.stride;
    if (spec.alignment == "udp" && cells > 1) {
      step = (static_cast<double>(cells) * spec.stride - 1.0) / static_cast<double>(cells - 1);
    }
    return {0.5 - step / 2.0, step};
  }
  double centre(double cell) const { return edge + (cell + 0.5) * step; }
};

/// What the decoders of heatmaps share.
class HeatmapDecoder : public Decoder {
 public:
  explicit HeatmapDecoder(const ModelSpec& model)
      : Decoder(model), rows(cells(h)), columns(cells(w)), x_axis(Axis::of(spec, columns)), y_axis(Axis::of(spec, rows)) {}

  std::vector<Role> roles() const override { return {{"heatmap", "NCHW", {{k}, {rows}, {columns}}}}; }

 protected:
  std::int64_t cells(int pixels) const {
    constexpr double kSlack = 0.01;  // how far a stride with a fraction may be rounded
    return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::ceil(pixels / spec.stride - kSlack)));
  }
  void place(Decoded& found, std::int64_t index, double column, double row) const {
    found.keypoints[static_cast<std::size_t>(2 * index)] = static_cast<float>(x_axis.centre(column));
    found.keypoints[static_cast<std::size_t>(2 * index + 1)] = static_cast<float>(y_axis.centre(row));
  }

  const std::int64_t rows, columns;
  const Axis x_axis, y_axis;
};

/// `softargmax`, `softargmax-depth` and `volume`: the expected cell under a softmax over all cells.
class SoftArgmax : public HeatmapDecoder {
 public:
  explicit SoftArgmax(const ModelSpec& model) : HeatmapDecoder(model) {
    for (std::int64_t i = 0; i < columns; ++i) xs.push_back(static_cast<float>(x_axis.centre(static_cast<double>(i))));
    for (std::int64_t i = 0; i < rows; ++i) ys.push_back(static_cast<float>(y_axis.centre(static_cast<double>(i))));
  }

  std::vector<Role> roles() const override {
    if (spec.type == "volume") return {{"volume", "NCHW", {{std::int64_t{k} * spec.bins}, {rows}, {columns}}}};
    std::vector<Role> found = HeatmapDecoder::roles();
    if (spec.has_depth()) found.push_back({"depth", "NCHW", {{k}, {rows}, {columns}}});
    return found;
  }

  Decoded decode(const Arrays& outputs, bool) const override {
    const bool is_volume = spec.type == "volume";
    const Array& maps = *find_array(outputs, is_volume ? "volume" : "heatmap");
    const std::int64_t n = maps.shape[0], plane = rows * columns, bins = is_volume ? spec.bins : 1;
    Decoded found = empty(n);
    if (spec.has_depth()) found.depth.resize(static_cast<std::size_t>(n * k));
    std::vector<float> weights(static_cast<std::size_t>(plane * bins));
    const Array* depths = spec.has_depth() && !is_volume ? find_array(outputs, "depth") : nullptr;
    for (std::int64_t index = 0; index < n * k; ++index) {
      const float total =
          exponentials(maps.data + index * plane * bins, plane * bins, static_cast<float>(spec.beta), weights.data());
      if (is_volume) found.depth[static_cast<std::size_t>(index)] = along(weights, plane, bins) / total;
      if (depths != nullptr) {
        found.depth[static_cast<std::size_t>(index)] = dot(weights.data(), depths->data + index * plane, plane) / total;
      }
      read_plane(found, index, weights.data(), total);
    }
    for (std::int64_t crop = 0; crop < n && spec.has_depth(); ++crop) {
      float* of_crop = found.depth.data() + crop * k;
      const float root = of_crop[spec.root_keypoint];
      for (int i = 0; i < k; ++i) of_crop[i] -= root;
    }
    return found;
  }

 private:
  /// The mean of z under weights of `bins` planes, which are summed into the first plane.
  float along(std::vector<float>& weights, std::int64_t plane, std::int64_t bins) const {
    double mean = 0.0;
    for (std::int64_t bin = 0; bin < bins; ++bin) {
      const float* one = weights.data() + bin * plane;
      const double z = (static_cast<double>(bin) - static_cast<double>(bins - 1) / 2.0) * (spec.depth_extent / static_cast<double>(bins));
      mean += sum(one, plane) * z;
    }
    for (std::int64_t bin = 1; bin < bins; ++bin) {
      for (std::int64_t i = 0; i < plane; ++i) weights[static_cast<std::size_t>(i)] += weights[static_cast<std::size_t>(bin * plane + i)];
    }
    return static_cast<float>(mean);
  }

  void read_plane(Decoded& found, std::int64_t index, const float* weights, float total) const {
    float x = 0.0f, y = 0.0f;
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* line = weights + row * columns;
      x += dot(line, xs.data(), columns);
      y += sum(line, columns) * ys[static_cast<std::size_t>(row)];
    }
    x /= total, y /= total;
    found.keypoints[static_cast<std::size_t>(2 * index)] = x;
    found.keypoints[static_cast<std::size_t>(2 * index + 1)] = y;
    const auto cell = [](float at, const Axis& axis) {
      return std::floor((at - static_cast<float>(axis.edge)) / static_cast<float>(axis.step));
    };
    const float column = cell(x, x_axis), row = cell(y, y_axis);
    float mass = 0.0f;
    if (std::isfinite(column) && std::isfinite(row)) {
      const double reach = spec.score_window / 2;
      const auto from = [&](double at) { return static_cast<std::int64_t>(std::clamp(at - reach, 0.0, 1e9)); };
      const auto to = [&](double at, std::int64_t size) {
        return static_cast<std::int64_t>(std::clamp(at + reach, -1.0, static_cast<double>(size - 1)));
      };
      for (std::int64_t i = from(row); i <= to(row, rows); ++i) {
        for (std::int64_t j = from(column); j <= to(column, columns); ++j) mass += weights[i * columns + j];
      }
    }
    found.scores[static_cast<std::size_t>(index)] = unit(mass / total);
  }

  std::vector<float> xs, ys;
};

/// `softargmax-window`: the softmax inside a window around the largest cell.
class SoftArgmaxWindow : public HeatmapDecoder {
 public:
  using HeatmapDecoder::HeatmapDecoder;
  Decoded decode(const Arrays& outputs, bool) const override {
    const Array& maps = *find_array(outputs, "heatmap");
    Decoded found = empty(maps.shape[0]);
    const std::int64_t reach = spec.window / 2;
    for (std::int64_t index = 0; index < maps.shape[0] * k; ++index) {
      const float* map = maps.data + index * rows * columns;
      const std::int64_t at = first_largest(map, rows * columns), row = at / columns, column = at % columns;
      double total = 0.0, x = 0.0, y = 0.0;
      for (std::int64_t i = std::max<std::int64_t>(0, row - reach); i <= std::min(rows - 1, row + reach); ++i) {
        for (std::int64_t j = std::max<std::int64_t>(0, column - reach); j <= std::min(columns - 1, column + reach); ++j) {
          const double weight = exp_of_negative((map[i * columns + j] - map[at]) * static_cast<float>(spec.beta));
          total += weight, x += weight * static_cast<double>(j), y += weight * static_cast<double>(i);
        }
      }
      place(found, index, x / total, y / total);
      found.scores[static_cast<std::size_t>(index)] = unit(map[at]);
    }
    return found;
  }
};

/// `expectation`: the mean cell of the map itself.
class Expectation : public HeatmapDecoder {
 public:
  using HeatmapDecoder::HeatmapDecoder;
  Decoded decode(const Arrays& outputs, bool) const override {
    constexpr float kFloor = 1e-12f;  // so that a map without anything has a mean, too: its middle
    const Array& maps = *find_array(outputs, "heatmap");
    Decoded found = empty(maps.shape[0]);
    for (std::int64_t index = 0; index < maps.shape[0] * k; ++index) {
      const float* map = maps.data + index * rows * columns;
      const float most = std::max(largest(map, rows * columns), kFloor);
      double total = 0.0, x = 0.0, y = 0.0;
      for (std::int64_t i = 0; i < rows; ++i) {
        double of_row = 0.0;
        for (std::int64_t j = 0; j < columns; ++j) {
          const double weight = std::max(map[i * columns + j], kFloor) / most;
          of_row += weight, x += weight * static_cast<double>(j);
        }
        total += of_row, y += of_row * static_cast<double>(i);
      }
      place(found, index, x / total, y / total);
      found.scores[static_cast<std::size_t>(index)] = unit(most);
    }
    return found;
  }
};

/// `argmax` and `offset`: the largest cell, and a step from it.
class LargestCell : public HeatmapDecoder {
 public:
  using HeatmapDecoder::HeatmapDecoder;

  std::vector<Role> roles() const override {
    std::vector<Role> found = HeatmapDecoder::roles();
    if (spec.type == "offset") found.push_back({"offset", "NCHW", {{2 * k}, {rows}, {columns}}});
    return found;
  }

  Decoded decode(const Arrays& outputs, bool) const override {
    const Array& maps = *find_array(outputs, "heatmap");
    const Array* offsets = spec.type == "offset" ? find_array(outputs, "offset") : nullptr;
    const std::int64_t plane = rows * columns;
    Decoded found = empty(maps.shape[0]);
    for (std::int64_t index = 0; index < maps.shape[0] * k; ++index) {
      const float* map = maps.data + index * plane;
      const std::int64_t at = first_largest(map, plane), row = at / columns, column = at % columns;
      double x = static_cast<double>(column), y = static_cast<double>(row);
      if (spec.offset == "quarter" && row > 0 && row < rows - 1 && column > 0 && column < columns - 1) {
        x += quarter(map[at + 1] - map[at - 1]);
        y += quarter(map[at + columns] - map[at - columns]);
      }
      place(found, index, x, y);
      if (offsets != nullptr) {
        const std::int64_t crop = index / k, point = index % k;
        const bool joined = spec.offset_order == "yyxx" || spec.offset_order == "xxyy";
        const bool x_first = spec.offset_order[0] == 'x';
        const std::int64_t first = joined ? point : 2 * point, second = joined ? k + point : 2 * point + 1;
        const float* of_crop = offsets->data + crop * 2 * k * plane;
        const double by_x = of_crop[(x_first ? first : second) * plane + at];
        const double by_y = of_crop[(x_first ? second : first) * plane + at];
        const bool in_cells = spec.offset_unit == "cell";
        found.keypoints[static_cast<std::size_t>(2 * index)] += static_cast<float>(by_x * (in_cells ? x_axis.step : 1.0));
        found.keypoints[static_cast<std::size_t>(2 * index + 1)] += static_cast<float>(by_y * (in_cells ? y_axis.step : 1.0));
      }
      found.scores[static_cast<std::size_t>(index)] = unit(map[at]);
    }
    return found;
  }

 private:
  static double quarter(float slope) { return slope > 0.0f ? 0.25 : slope < 0.0f ? -0.25 : 0.0; }
};

/// `kernel` taps of a Gaussian that sum to one; its deviation is 0.3 ((kernel - 1) / 2 - 1) + 0.8 cells.
inline std::vector<double> gaussian(int kernel) {
  const int reach = kernel / 2;
  const double sigma = 0.3 * (reach - 1) + 0.8;
  std::vector<double> taps;
  for (int i = -reach; i <= reach; ++i) taps.push_back(std::exp(-(i * i) / (2.0 * sigma * sigma)));
  const double total = std::accumulate(taps.begin(), taps.end(), 0.0);
  for (double& tap : taps) tap /= total;
  return taps;
}

/// The cell that a tap reads, or -1 beyond the border: `mirrored` maps go on as mirrored about their outermost cells.
inline std::int64_t tapped(std::int64_t at, std::int64_t cells, bool mirrored) {
  if (!mirrored) return at >= 0 && at < cells ? at : -1;
  if (cells == 1) return 0;
  const std::int64_t period = 2 * (cells - 1), rest = ((at % period) + period) % period;
  return std::min(rest, period - rest);
}

/// `dark` and `udp`: a Newton step on the logarithm of the smoothed map, or a disk with offsets.
class Taylor : public HeatmapDecoder {
 public:
  explicit Taylor(const ModelSpec& model)
      : HeatmapDecoder(model), taps(gaussian(spec.blur_kernel)), disk_taps(gaussian(2 * spec.blur_kernel + 1)) {}

  std::vector<Role> roles() const override {
    if (spec.target == "combined") return {{"combined", "NCHW", {{3 * k}, {rows}, {columns}}}};
    return HeatmapDecoder::roles();
  }

  Decoded decode(const Arrays& outputs, bool) const override {
    const bool combined = spec.target == "combined";
    const Array& maps = *find_array(outputs, combined ? "combined" : "heatmap");
    Decoded found = empty(maps.shape[0]);
    const std::int64_t plane = rows * columns;
    for (std::int64_t index = 0; index < maps.shape[0] * k; ++index) {
      const float* map = maps.data + index * plane * (combined ? 3 : 1);
      if (combined) {
        read_disk(found, index, map, plane);
        continue;
      }
      const std::int64_t at = first_largest(map, plane), row = at / columns, column = at % columns;
      double x = static_cast<double>(column), y = static_cast<double>(row);
      if (spec.type == "udp") {
        step_of_udp(map, row, column, x, y);
      } else if (row >= 2 && row < rows - 2 && column >= 2 && column < columns - 2) {
        step_of_dark(map, row, column, x, y);
      }
      place(found, index, x, y);
      found.scores[static_cast<std::size_t>(index)] = unit(map[at]);
    }
    return found;
  }

 private:
  /// What the smoothed map holds at a cell; beyond the border the outermost cell stands for its neighbours.
  double smoothed(const float* map, std::int64_t row, std::int64_t column, bool mirrored = false) const {
    row = std::clamp<std::int64_t>(row, 0, rows - 1), column = std::clamp<std::int64_t>(column, 0, columns - 1);
    const std::int64_t reach = spec.blur_kernel / 2;
    double total = 0.0;
    for (std::int64_t i = -reach; i <= reach; ++i) {
      const std::int64_t at_row = tapped(row + i, rows, mirrored);
      if (at_row < 0) continue;
      double of_row = 0.0;
      for (std::int64_t j = -reach; j <= reach; ++j) {
        const std::int64_t at_column = tapped(column + j, columns, mirrored);
        if (at_column >= 0) of_row += taps[static_cast<std::size_t>(j + reach)] * map[at_row * columns + at_column];
      }
      total += taps[static_cast<std::size_t>(i + reach)] * of_row;
    }
    return total;
  }

  /// The whole map, smoothed by some taps.
  std::vector<double> smooth(const float* map, const std::vector<double>& by, bool mirrored) const {
    const auto reach = static_cast<std::int64_t>(by.size() / 2);
    std::vector<double> across(static_cast<std::size_t>(rows * columns)), both(across.size());
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t tap = -reach; tap <= reach; ++tap) {
          const std::int64_t at = tapped(j + tap, columns, mirrored);
          if (at >= 0) across[static_cast<std::size_t>(i * columns + j)] += by[static_cast<std::size_t>(tap + reach)] * map[i * columns + at];
        }
      }
    }
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int64_t tap = -reach; tap <= reach; ++tap) {
        const std::int64_t at = tapped(i + tap, rows, mirrored);
        for (std::int64_t j = 0; at >= 0 && j < columns; ++j) {
          both[static_cast<std::size_t>(i * columns + j)] += by[static_cast<std::size_t>(tap + reach)] * across[static_cast<std::size_t>(at * columns + j)];
        }
      }
    }
    return both;
  }

  /// The step to the top of a parabola, -H^-1 g, at most one cell; none where it has no top.
  static void newton(double gx, double gy, double gxx, double gyy, double gxy, double& x, double& y) {
    constexpr double kLeastDeterminant = 1e-9;  // below it a map is flat within the precision of float32
    const double determinant = gxx * gyy - gxy * gxy;
    if (!(determinant > kLeastDeterminant && gyy < 0.0)) return;
    x += std::clamp((gxy * gy - gyy * gx) / determinant, -1.0, 1.0);
    y += std::clamp((gxy * gx - gxx * gy) / determinant, -1.0, 1.0);
  }

  void step_of_dark(const float* map, std::int64_t row, std::int64_t column, double& x, double& y) const {
    const auto l = [&](int right, int down) {
      return std::log(std::max(smoothed(map, row + down, column + right), 1e-10));
    };
    const double here = l(0, 0);
    newton((l(1, 0) - l(-1, 0)) / 2, (l(0, 1) - l(0, -1)) / 2, (l(2, 0) - 2 * here + l(-2, 0)) / 4,
           (l(0, 2) - 2 * here + l(0, -2)) / 4, (l(1, 1) - l(1, -1) - l(-1, 1) + l(-1, -1)) / 4, x, y);
  }

  void step_of_udp(const float* map, std::int64_t row, std::int64_t column, double& x, double& y) const {
    constexpr double kLeast = 1e-3, kMost = 50.0;  // of what a logarithm is taken
    const double most = map[row * columns + column];
    double around[3][3], low = std::numeric_limits<double>::infinity(), high = -low;
    for (int i = 0; i < 3; ++i) {
      for (int j = 0; j < 3; ++j) {
        around[i][j] = smoothed(map, row + i - 1, column + j - 1);
        low = std::min(low, around[i][j]), high = std::max(high, around[i][j]);
      }
    }
    // A factor matters only to what is limited afterwards, and only for that whole maps are smoothed.
    double factor = 1.0;
    if (low < kLeast || high * most > kMost * around[1][1]) {
      const std::vector<double> all = smooth(map, taps, false);
      factor = most / std::max(*std::max_element(all.begin(), all.end()), kLeast * kLeast);
    }
    const auto l = [&](int right, int down) { return std::log(std::clamp(around[1 + down][1 + right] * factor, kLeast, kMost)); };
    const double here = l(0, 0);
    newton((l(1, 0) - l(-1, 0)) / 2, (l(0, 1) - l(0, -1)) / 2, l(1, 0) - 2 * here + l(-1, 0),
           l(0, 1) - 2 * here + l(0, -1),
           (l(1, 1) - l(1, 0) - l(0, 1) + 2 * here - l(-1, 0) - l(0, -1) + l(-1, -1)) / 2, x, y);
  }

  void read_disk(Decoded& found, std::int64_t index, const float* maps, std::int64_t plane) const {
    const std::vector<double> disk = smooth(maps, disk_taps, true);
    std::vector<float> rounded(disk.begin(), disk.end());  // ties are those of float32
    const std::int64_t at = first_largest(rounded.data(), plane), row = at / columns, column = at % columns;
    const double radius = spec.radius_factor * static_cast<double>(std::max(rows, columns));
    place(found, index, static_cast<double>(column) + radius * smoothed(maps + plane, row, column, true),
          static_cast<double>(row) + radius * smoothed(maps + 2 * plane, row, column, true));
    found.scores[static_cast<std::size_t>(index)] = unit(rounded[static_cast<std::size_t>(at)]);
  }

  const std::vector<double> taps, disk_taps;
};

/// `simcc`: bins along x and along y.
class SimCC : public Decoder {
 public:
  using Decoder::Decoder;

  std::vector<Role> roles() const override {
    const auto bins = [&](int pixels) { return static_cast<std::int64_t>(std::nearbyint(pixels * spec.split_ratio)); };
    return {{"simcc_x", "NKW", {{k}, {bins(w)}}}, {"simcc_y", "NKH", {{k}, {bins(h)}}}};
  }

  Decoded decode(const Arrays& outputs, bool) const override {
    const Array* axes[] = {find_array(outputs, "simcc_x"), find_array(outputs, "simcc_y")};
    Decoded found = empty(axes[0]->shape[0]);
    for (std::int64_t index = 0; index < axes[0]->shape[0] * k; ++index) {
      float least = std::numeric_limits<float>::infinity();
      for (int axis = 0; axis < 2; ++axis) {
        const std::int64_t count = axes[axis]->shape[2];
        const float* bins = axes[axis]->data + index * count;
        found.keypoints[static_cast<std::size_t>(2 * index + axis)] = static_cast<float>(place(bins, count) / spec.split_ratio + 0.5);
        least = std::min(least, largest(bins, count));
      }
      found.scores[static_cast<std::size_t>(index)] = unit(least);
    }
    return found;
  }

 private:
  double place(const float* bins, std::int64_t count) const {
    if (spec.refine == "softargmax") {
      std::vector<float> weights(static_cast<std::size_t>(count));
      const float total = exponentials(bins, count, static_cast<float>(spec.beta), weights.data());
      double mean = 0.0;
      for (std::int64_t i = 0; i < count; ++i) mean += static_cast<double>(i) * weights[static_cast<std::size_t>(i)];
      return mean / total;
    }
    const std::int64_t at = first_largest(bins, count);
    return spec.refine == "dark" ? static_cast<double>(at) + step(bins, count, at) : static_cast<double>(at);
  }

  double step(const float* bins, std::int64_t count, std::int64_t at) const {
    constexpr double kLeast = 1e-3, kMost = 50.0, kFlat = 1e-6;
    const std::vector<double> taps = gaussian(spec.blur_kernel);
    const std::int64_t reach = spec.blur_kernel / 2;
    std::vector<double> smooth(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t tap = std::max(-reach, -i); tap <= std::min(reach, count - 1 - i); ++tap) {
        smooth[static_cast<std::size_t>(i)] += taps[static_cast<std::size_t>(tap + reach)] * bins[i + tap];
      }
    }
    const double highest = *std::max_element(smooth.begin(), smooth.end());
    const double scale = highest > 0.0 ? bins[at] / highest : 0.0;
    const auto l = [&](std::int64_t near) {
      near = std::clamp<std::int64_t>(near, 0, count - 1);
      return std::log(std::clamp(smooth[static_cast<std::size_t>(near)] * scale, kLeast, kMost));
    };
    const double slope = 0.5 * (l(at + 1) - l(at - 1)), curvature = 0.25 * (l(at + 2) - 2.0 * l(at) + l(at - 2));
    return curvature < -kFlat ? std::clamp(-slope / curvature, -1.0, 1.0) : 0.0;
  }
};

/// `coordinates`: networks that give them themselves.
class Coordinates : public Decoder {
 public:
  using Decoder::Decoder;

  std::vector<Role> roles() const override {
    std::vector<std::int64_t> widths = {2, 3};
    if (spec.has_columns) widths = {static_cast<std::int64_t>(spec.columns.size())};
    if (!spec.has_columns && spec.has_scores) widths = {2};
    std::vector<Role> found = {{"coordinates", "NKC", {{k}, widths}}};
    if (spec.has_scores) found.push_back({"scores", "NK", {{1, k}}});
    return found;
  }
  Decoded decode(const Arrays& outputs, bool) const override {
    const Array& values = *find_array(outputs, "coordinates");
    const Array* scores = spec.has_scores ? find_array(outputs, "scores") : nullptr;
    const std::int64_t width = values.shape[2], score_at = spec.has_depth() ? 3 : 2;
    const double half = spec.scale == "symmetric" ? 0.5 : 0.0;
    const auto factor = [&](int pixels) { return spec.scale == "pixel" ? 1.0 : half > 0.0 ? pixels * half : pixels; };
    Decoded found = empty(values.shape[0]);
    if (spec.has_depth()) found.depth.resize(found.scores.size());
    for (std::int64_t index = 0; index < values.shape[0] * k; ++index) {
      const float* of = values.data + index * width;
      const auto to = static_cast<std::size_t>(index);
      found.keypoints[2 * to] = static_cast<float>(of[0] * factor(w) + half * w);
      found.keypoints[2 * to + 1] = static_cast<float>(of[1] * factor(h) + half * h);
      found.scores[to] = 1.0f;
      if (scores != nullptr) {
        found.scores[to] = unit(scores->data[scores->shape[1] == 1 ? index / k : index]);
      } else if (width > score_at) {
        found.scores[to] = unit(of[score_at]);
      }
      if (spec.has_depth()) {
        const float root = values.data[(index / k * k + spec.root_keypoint) * width + 2];
        found.depth[to] = static_cast<float>((of[2] - root) * (spec.unit == "pixel" ? factor(w) : 1.0));
      }
    }
    return found;
  }
};

/// What the decoders of single-stage networks share: candidates, and which of them are people.
///
/// A candidate has 5 + 3 K columns: box x0, y0, x1, y1 in input pixels, score, then x, y and score of each keypoint.
class PeopleDecoder : public Decoder {
 public:
  using Decoder::Decoder;

  std::vector<Role> decoded_roles() const override { return {{"candidates", "NAC", {{}, {width()}}}}; }

  Decoded decode(const Arrays& outputs, bool best) const override {
    const std::int64_t n = outputs[0].second.shape[0];
    Decoded found = start();
    for (std::int64_t crop = 0; crop < n; ++crop) {
      std::vector<float> scores = scored(outputs, crop);
      add(found, crop, scores, best, [&](std::int64_t which, float* to) { candidate(outputs, crop, which, scores, to); });
    }
    return found;
  }

  Decoded read(const Arrays& outputs, bool best) const override {
    const Array& all = *find_array(outputs, "candidates");
    Decoded found = start();
    for (std::int64_t crop = 0; crop < all.shape[0]; ++crop) {
      const float* of_crop = all.data + crop * all.shape[1] * width();
      std::vector<float> scores;
      for (std::int64_t i = 0; i < all.shape[1]; ++i) scores.push_back(of_crop[i * width() + 4]);
      add(found, crop, scores, best,
          [&](std::int64_t which, float* to) { std::copy_n(of_crop + which * width(), width(), to); });
    }
    return found;
  }

 protected:
  std::int64_t width() const { return 5 + 3 * std::int64_t{k}; }
  /// Scores of all candidates of a crop.
  virtual std::vector<float> scored(const Arrays& outputs, std::int64_t crop) const = 0;
  /// Writes the columns of one candidate.
  virtual void candidate(const Arrays& outputs, std::int64_t crop, std::int64_t which, const std::vector<float>& scores,
                         float* to) const = 0;
  /// Whether a candidate may be a person, besides its score.
  virtual bool stands_out(const std::vector<float>&, std::int64_t) const { return true; }
  /// "greedy", "weighted" or "none".
  virtual std::string way() const { return "greedy"; }

 private:
  Decoded start() const {
    Decoded found = empty(0);
    found.finds_people = true;
    return found;
  }

  template <typename Candidate>
  void add(Decoded& found, std::int64_t crop, const std::vector<float>& scores, bool best, Candidate&& of) const {
    if (best && scores.empty()) {
      throw BackendError("The network found nobody: it gave no candidates, of which one could be the best.",
                         "detect() gives as many people as there are, and none for none.");
    }
    const float most = scores.empty() ? 0.0f : *std::max_element(scores.begin(), scores.end());
    const double least = best ? std::min(spec.min_score, static_cast<double>(most)) : spec.min_score;
    std::vector<std::int64_t> which;
    for (std::size_t i = 0; i < scores.size(); ++i) {
      if (static_cast<double>(scores[i]) >= least && stands_out(scores, static_cast<std::int64_t>(i))) which.push_back(static_cast<std::int64_t>(i));
    }
    std::stable_sort(which.begin(), which.end(), [&](std::int64_t a, std::int64_t b) {
      return scores[static_cast<std::size_t>(a)] > scores[static_cast<std::size_t>(b)];
    });
    std::vector<std::vector<float>> rows(which.size(), std::vector<float>(static_cast<std::size_t>(width())));
    for (std::size_t i = 0; i < which.size(); ++i) of(which[i], rows[i].data());
    const std::size_t most_people = best ? 1 : static_cast<std::size_t>(spec.max_people);
    std::vector<bool> gone(rows.size());
    std::size_t taken = 0;
    for (std::size_t i = 0; i < rows.size() && taken < most_people; ++i) {
      if (gone[i]) continue;
      ++taken;
      if (way() == "none") {
        give(found, crop, rows[i]);
        continue;
      }
      std::vector<double> mean(rows[i].size());
      double weight = 0.0;
      for (std::size_t j = i; j < rows.size(); ++j) {
        if (gone[j] || (j != i && !(overlap(rows[i].data(), rows[j].data()) > spec.overlap))) continue;
        gone[j] = true;
        weight += rows[j][4];
        for (std::size_t column = 0; column < mean.size(); ++column) mean[column] += double{rows[j][4]} * rows[j][column];
      }
      std::vector<float> person = rows[i];
      if (way() == "weighted") {
        for (std::size_t column = 0; column < mean.size(); ++column) {
          if (column != 4) person[column] = static_cast<float>(mean[column] / weight);
        }
      }
      give(found, crop, person);
    }
  }

  /// Intersection over union; 0 without an area.
  static float overlap(const float* a, const float* b) {
    const auto area = [](float x0, float y0, float x1, float y1) { return std::max(x1 - x0, 0.0f) * std::max(y1 - y0, 0.0f); };
    const float shared = area(std::max(a[0], b[0]), std::max(a[1], b[1]), std::min(a[2], b[2]), std::min(a[3], b[3]));
    const float whole = area(a[0], a[1], a[2], a[3]) + area(b[0], b[1], b[2], b[3]) - shared;
    return whole > 0.0f ? shared / whole : 0.0f;
  }

  void give(Decoded& found, std::int64_t crop, const std::vector<float>& row) const {
    ++found.count;
    found.crops.push_back(static_cast<int>(crop));
    found.boxes.insert(found.boxes.end(), row.begin(), row.begin() + 4);
    found.people_scores.push_back(unit(row[4]));
    for (std::size_t i = 5; i + 2 < row.size(); i += 3) {
      found.keypoints.push_back(row[i]), found.keypoints.push_back(row[i + 1]);
      found.scores.push_back(unit(row[i + 2]));
    }
  }
};

/// Writes the box of a centre and a size.
inline void write_corners(float x, float y, float width, float height, float* to) {
  to[0] = x - width / 2, to[1] = y - height / 2, to[2] = x + width / 2, to[3] = y + height / 2;
}

/// `yolo-pose` in its four forms.
class YoloPose : public PeopleDecoder {
 public:
  explicit YoloPose(const ModelSpec& model) : PeopleDecoder(model) {
    for (std::size_t i = 0; i < spec.strides.size(); ++i) {
      Level level;
      level.stride = static_cast<float>(spec.strides[i]);
      level.rows = static_cast<std::int64_t>(std::nearbyint(h / spec.strides[i]));
      level.columns = static_cast<std::int64_t>(std::nearbyint(w / spec.strides[i]));
      level.anchors = spec.anchors.empty() ? 1 : static_cast<std::int64_t>(spec.anchors[i].size() / 2);
      level.begin = total;
      total += level.anchors * level.rows * level.columns;
      levels.push_back(level);
    }
  }

  std::vector<Role> roles() const override {
    if (levels.empty()) {
      const Role one = spec.form == "final" ? Role{"people", "NAC", {{}, {channels()}}} : Role{"people", "NCA", {{channels()}, {}}};
      return {one};
    }
    if (spec.heads == "one") return {{"people", "NCA", {{channels()}, {total}}}};
    std::vector<Role> found;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const std::string number = "_" + std::to_string(i);
      const auto add = [&](const std::string& name, std::int64_t count) {
        found.push_back({name + number, "NCHW", {{count}, {levels[i].rows}, {levels[i].columns}}});
      };
      if (spec.heads == "levels") {
        add("level", levels[i].anchors * channels());
      } else {
        add("box", box_columns()), add("score", score_columns()), add("keypoints", point_columns() * std::int64_t{k});
      }
    }
    return found;
  }

 protected:
  std::string way() const override { return spec.form == "final" ? "none" : "greedy"; }

  std::vector<float> scored(const Arrays& outputs, std::int64_t crop) const override {
    const bool raw = !levels.empty();
    const bool product = spec.form == "anchor-based" || spec.objectness;
    std::int64_t count = total;
    if (!raw) count = outputs[0].second.shape[spec.form == "final" ? 1 : 2];
    std::vector<float> scores(static_cast<std::size_t>(count));
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = [&](std::int64_t column) {
        const float value = number(outputs, crop, i, box_columns() + column);
        return raw ? sigmoid(value) : value;
      };
      if (spec.form == "final") {
        scores[static_cast<std::size_t>(i)] = at(0);
        continue;
      }
      float most = -std::numeric_limits<float>::infinity();
      for (std::int64_t column = product ? 1 : 0; column < score_columns(); ++column) most = std::max(most, at(column));
      scores[static_cast<std::size_t>(i)] = product ? at(0) * most : most;
    }
    return scores;
  }

  void candidate(const Arrays& outputs, std::int64_t crop, std::int64_t which, const std::vector<float>& scores,
                 float* to) const override {
    const auto of = [&](std::int64_t column) { return number(outputs, crop, which, column); };
    const float score = scores[static_cast<std::size_t>(which)];
    float x_factor = 1.0f, y_factor = 1.0f, x_cell = 0.0f, y_cell = 0.0f;
    if (levels.empty()) {
      if (spec.scale == "unit") x_factor = static_cast<float>(w), y_factor = static_cast<float>(h);
      const float box[] = {of(0) * x_factor, of(1) * y_factor, of(2) * x_factor, of(3) * y_factor};
      if (spec.boxes == "xywh") {
        write_corners(box[0], box[1], box[2], box[3], to);
      } else {
        std::copy_n(box, 4, to);
      }
    } else {
      const Level& level = level_of(which);
      const std::int64_t within = (which - level.begin) % (level.rows * level.columns);
      x_cell = static_cast<float>(within % level.columns), y_cell = static_cast<float>(within / level.columns);
      x_factor = y_factor = level.stride;
      if (spec.form == "anchor-based") {
        const auto anchor = static_cast<std::size_t>((which - level.begin) / (level.rows * level.columns));
        const std::vector<double>& sizes = spec.anchors[static_cast<std::size_t>(&level - levels.data())];
        x_cell -= 0.5f, y_cell -= 0.5f;
        const float width = 2 * sigmoid(of(2)), height = 2 * sigmoid(of(3));
        write_corners((2 * sigmoid(of(0)) + x_cell) * level.stride, (2 * sigmoid(of(1)) + y_cell) * level.stride,
                      width * width * static_cast<float>(sizes[2 * anchor]), height * height * static_cast<float>(sizes[2 * anchor + 1]), to);
      } else {
        float away[4];
        for (int side = 0; side < 4; ++side) away[side] = expected(of, side);
        to[0] = (x_cell + 0.5f - away[0]) * level.stride, to[1] = (y_cell + 0.5f - away[1]) * level.stride;
        to[2] = (x_cell + 0.5f + away[2]) * level.stride, to[3] = (y_cell + 0.5f + away[3]) * level.stride;
      }
    }
    to[4] = score;
    const bool raw = !levels.empty();
    for (int point = 0; point < k; ++point) {
      const std::int64_t at = box_columns() + score_columns() + point_columns() * std::int64_t{point};
      float* its = to + 5 + 3 * point;
      its[0] = (raw ? 2 * of(at) + x_cell : of(at)) * x_factor;
      its[1] = (raw ? 2 * of(at + 1) + y_cell : of(at + 1)) * y_factor;
      its[2] = !spec.visibility ? score : raw ? sigmoid(of(at + 2)) : of(at + 2);
    }
  }

 private:
  struct Level {
    float stride = 0.0f;
    std::int64_t rows = 0, columns = 0, anchors = 1, begin = 0;
  };

  std::int64_t box_columns() const { return 4 * std::int64_t{std::max(spec.bins, 1)}; }
  std::int64_t score_columns() const {
    if (spec.form == "final") return 2;  // the score and the number of its class
    return spec.classes + (spec.form == "anchor-based" || spec.objectness ? 1 : 0);
  }
  int point_columns() const { return spec.visibility ? 3 : 2; }
  std::int64_t channels() const { return box_columns() + score_columns() + point_columns() * std::int64_t{k}; }
  const Level& level_of(std::int64_t which) const {
    std::size_t i = levels.size() - 1;
    while (levels[i].begin > which) --i;
    return levels[i];
  }

  /// One number of a candidate, by its column: those of the box, of scores and of keypoints in a row.
  float number(const Arrays& outputs, std::int64_t crop, std::int64_t which, std::int64_t column) const {
    if (levels.empty() || spec.heads == "one") {
      const Array& people = outputs[0].second;
      if (spec.form == "final") return people.data[(crop * people.shape[1] + which) * people.shape[2] + column];
      return people.data[(crop * people.shape[1] + column) * people.shape[2] + which];
    }
    const Level& level = level_of(which);
    const auto index = static_cast<std::size_t>(&level - levels.data());
    const std::int64_t cells = level.rows * level.columns, at = which - level.begin;
    if (spec.heads == "levels") {
      const Array& maps = outputs[index].second;
      return maps.data[(crop * maps.shape[1] + at / cells * channels() + column) * cells + at % cells];
    }
    const bool is_box = column < box_columns(), is_score = !is_box && column < box_columns() + score_columns();
    const Array& maps = outputs[3 * index + (is_box ? 0 : is_score ? 1 : 2)].second;
    column -= is_box ? 0 : is_score ? box_columns() : box_columns() + score_columns();
    return maps.data[(crop * maps.shape[1] + column) * cells + at];
  }

  /// The expected bin of one side; of a single bin the number itself.
  template <typename Of>
  float expected(const Of& of, int side) const {
    if (spec.bins <= 1) return of(side);
    float most = -std::numeric_limits<float>::infinity(), total = 0.0f, mean = 0.0f;
    for (int bin = 0; bin < spec.bins; ++bin) most = std::max(most, of(std::int64_t{side} * spec.bins + bin));
    for (int bin = 0; bin < spec.bins; ++bin) {
      const float weight = std::exp(of(std::int64_t{side} * spec.bins + bin) - most);
      total += weight, mean += weight * static_cast<float>(bin);
    }
    return mean / total;
  }

  std::vector<Level> levels;
  std::int64_t total = 0;
};

/// `anchors`: SSD-style detectors as MediaPipe's, by the options of its SsdAnchorsCalculator.
class Anchors : public PeopleDecoder {
 public:
  explicit Anchors(const ModelSpec& model) : PeopleDecoder(model) {
    const std::size_t layers = spec.strides.size();
    for (std::size_t layer = 0; layer < layers;) {
      const double stride = spec.strides[layer];
      std::vector<std::pair<double, double>> sizes;
      for (; layer < layers && spec.strides[layer] == stride; ++layer) {
        const double scale = scale_of(layer), ratio = spec.interpolated_scale_aspect_ratio;
        const auto add = [&](double of, double by) { sizes.emplace_back(of * std::sqrt(by), of / std::sqrt(by)); };
        for (const double each : spec.aspect_ratios) add(scale, each);
        if (ratio > 0) add(std::sqrt(scale * scale_of(layer + 1)), ratio);
      }
      const auto rows = static_cast<std::int64_t>(std::ceil(h / stride)), columns = static_cast<std::int64_t>(std::ceil(w / stride));
      for (std::int64_t row = 0; row < rows; ++row) {
        for (std::int64_t column = 0; column < columns; ++column) {
          for (const auto& [width, height] : sizes) {
            const bool fixed = spec.fixed_anchor_size;
            grid.push_back({static_cast<float>((static_cast<double>(column) + spec.anchor_offset) / static_cast<double>(columns) * w),
                            static_cast<float>((static_cast<double>(row) + spec.anchor_offset) / static_cast<double>(rows) * h),
                            static_cast<float>((fixed ? 1.0 : width) * w), static_cast<float>((fixed ? 1.0 : height) * h)});
          }
        }
      }
    }
  }

  std::vector<Role> roles() const override {
    const auto count = static_cast<std::int64_t>(grid.size());
    return {{"boxes", "NAC", {{count}, {4 + 2 * k}}}, {"logits", "NAC", {{count}, {1}}}};
  }

 protected:
  std::string way() const override { return spec.nms; }
  std::vector<float> scored(const Arrays& outputs, std::int64_t crop) const override {
    const float* logits = outputs[1].second.data + crop * static_cast<std::int64_t>(grid.size());
    const auto clip = static_cast<float>(spec.score_clipping);
    std::vector<float> scores;
    for (std::size_t i = 0; i < grid.size(); ++i) scores.push_back(sigmoid(std::clamp(logits[i], -clip, clip)));
    return scores;
  }
  void candidate(const Arrays& outputs, std::int64_t crop, std::int64_t which, const std::vector<float>& scores,
                 float* to) const override {
    const Array& boxes = outputs[0].second;
    const float* of = boxes.data + (crop * boxes.shape[1] + which) * boxes.shape[2];
    const Anchor& anchor = grid[static_cast<std::size_t>(which)];
    const float across = anchor.width / static_cast<float>(spec.divisor), down = anchor.height / static_cast<float>(spec.divisor);
    write_corners(of[0] * across + anchor.x, of[1] * down + anchor.y, of[2] * across, of[3] * down, to);
    to[4] = scores[static_cast<std::size_t>(which)];
    for (int point = 0; point < k; ++point) {
      float* its = to + 5 + 3 * point;
      its[0] = of[4 + 2 * point] * across + anchor.x, its[1] = of[5 + 2 * point] * down + anchor.y, its[2] = to[4];
    }
  }

 private:
  struct Anchor {
    float x, y, width, height;
  };
  double scale_of(std::size_t layer) const {
    const double low = spec.min_scale.value_or(1.0), high = spec.max_scale.value_or(1.0);
    const auto layers = static_cast<double>(spec.strides.size());
    if (layer == spec.strides.size()) return 1.0;
    return layers == 1 ? (low + high) / 2 : low + (high - low) * static_cast<double>(layer) / (layers - 1);
  }
  std::vector<Anchor> grid;
};

/// `centernet`: a heatmap of middles, and at each of its cells a box and keypoints.
class CenterNet : public PeopleDecoder {
 public:
  explicit CenterNet(const ModelSpec& model)
      : PeopleDecoder(model),
        rows(static_cast<std::int64_t>(std::nearbyint(h / spec.stride))),
        columns(static_cast<std::int64_t>(std::nearbyint(w / spec.stride))) {}

  std::vector<Role> roles() const override {
    std::vector<Role> found;
    const auto add = [&](const char* name, std::int64_t count) { found.push_back({name, "NCHW", {{count}, {rows}, {columns}}}); };
    add("heatmap", 1), add("boxes", spec.boxes == "distances" ? 4 : 2);
    if (spec.offsets) add("offsets", 2);
    if (spec.keypoints) add("keypoints", 2 * k);
    return found;
  }

 protected:
  std::vector<float> scored(const Arrays& outputs, std::int64_t crop) const override {
    const float* cells = outputs[0].second.data + crop * rows * columns;
    std::vector<float> scores(cells, cells + rows * columns);
    if (spec.heatmap == "logits") std::transform(scores.begin(), scores.end(), scores.begin(), sigmoid);
    return scores;
  }
  bool stands_out(const std::vector<float>& scores, std::int64_t at) const override {
    const std::int64_t row = at / columns, column = at % columns;
    for (std::int64_t i = std::max<std::int64_t>(0, row - 1); i <= std::min(rows - 1, row + 1); ++i) {
      for (std::int64_t j = std::max<std::int64_t>(0, column - 1); j <= std::min(columns - 1, column + 1); ++j) {
        if (scores[static_cast<std::size_t>(i * columns + j)] > scores[static_cast<std::size_t>(at)]) return false;
      }
    }
    return true;
  }
  void candidate(const Arrays& outputs, std::int64_t crop, std::int64_t which, const std::vector<float>& scores,
                 float* to) const override {
    const auto unit = static_cast<float>(spec.step_unit == "cell" ? spec.stride : 1.0);
    const double shift = spec.origin == "centre" ? 0.5 : 0.0;
    const auto x = static_cast<float>((static_cast<double>(which % columns) + shift) * spec.stride);
    const auto y = static_cast<float>((static_cast<double>(which / columns) + shift) * spec.stride);
    const auto of = [&](std::size_t output, std::int64_t channel) {
      const Array& maps = outputs[output].second;
      return maps.data[(crop * maps.shape[1] + channel) * rows * columns + which] * unit;
    };
    if (spec.boxes == "distances") {
      to[0] = x - of(1, 0), to[1] = y - of(1, 1), to[2] = x + of(1, 2), to[3] = y + of(1, 3);
    } else {
      write_corners(x + (spec.offsets ? of(2, 0) : 0.0f), y + (spec.offsets ? of(2, 1) : 0.0f), of(1, 0), of(1, 1), to);
    }
    to[4] = scores[static_cast<std::size_t>(which)];
    for (int point = 0; point < k; ++point) {
      const std::size_t output = spec.offsets ? 3 : 2;
      float* its = to + 5 + 3 * point;
      its[0] = of(output, 2 * point) + x, its[1] = of(output, 2 * point + 1) + y, its[2] = to[4];
    }
  }

 private:
  const std::int64_t rows, columns;
};

/// `boxes`: finished boxes and their scores, without keypoints.
class Boxes : public PeopleDecoder {
 public:
  using PeopleDecoder::PeopleDecoder;

  std::vector<Role> roles() const override {
    std::vector<Role> found = {{"boxes", "NAC", {{}, {4}}}, {"scores", "NAC", {{}, {}}}};
    if (spec.label) found.push_back({"labels", "NAC", {{}, {1}}});
    return found;
  }

 protected:
  std::string way() const override { return spec.nms; }
  std::vector<float> scored(const Arrays& outputs, std::int64_t crop) const override {
    const Array& scores = outputs[1].second;
    const std::int64_t count = scores.shape[1], classes = scores.shape[2];
    for (const auto& [role, array] : outputs) {
      if (array.shape[1] != count || classes == 0) {
        throw BackendError("The outputs do not hold the same candidates: '" + role + "' has " + std::to_string(array.shape[1]) +
                               ", and 'scores' " + std::to_string(count) + " of " + std::to_string(classes) + " classes.",
                           "Name the right outputs in [outputs] of model.toml, with their layout and slice.");
      }
    }
    std::vector<float> found;
    for (std::int64_t i = 0; i < count; ++i) {
      const float* of = scores.data + (crop * count + i) * classes;
      float most = *std::max_element(of, of + classes);
      if (spec.scores == "logits") most = sigmoid(most);
      if (spec.label && !(std::abs(outputs[2].second.data[crop * count + i] - static_cast<float>(*spec.label)) < 0.5f)) most *= 0.0f;
      found.push_back(most);
    }
    return found;
  }
  void candidate(const Arrays& outputs, std::int64_t crop, std::int64_t which, const std::vector<float>& scores,
                 float* to) const override {
    const Array& boxes = outputs[0].second;
    const float* of = boxes.data + (crop * boxes.shape[1] + which) * 4;
    const float across = spec.scale == "unit" ? static_cast<float>(w) : 1.0f, down = spec.scale == "unit" ? static_cast<float>(h) : 1.0f;
    const float box[] = {of[0] * across, of[1] * down, of[2] * across, of[3] * down};
    if (spec.boxes == "xywh") {
      write_corners(box[0], box[1], box[2], box[3], to);
    } else {
      std::copy_n(box, 4, to);
    }
    to[4] = scores[static_cast<std::size_t>(which)];
  }
};

}  // namespace detail

/// The decoder of a model.
inline std::unique_ptr<Decoder> make_decoder(const ModelSpec& model) {
  using namespace detail;
  const std::string& type = model.decoder.type;
  if (type == "softargmax" || type == "softargmax-depth" || type == "volume") return std::make_unique<SoftArgmax>(model);
  if (type == "softargmax-window") return std::make_unique<SoftArgmaxWindow>(model);
  if (type == "expectation") return std::make_unique<Expectation>(model);
  if (type == "argmax" || type == "offset") return std::make_unique<LargestCell>(model);
  if (type == "dark" || type == "udp") return std::make_unique<Taylor>(model);
  if (type == "simcc") return std::make_unique<SimCC>(model);
  if (type == "coordinates") return std::make_unique<Coordinates>(model);
  if (type == "yolo-pose") return std::make_unique<YoloPose>(model);
  if (type == "anchors") return std::make_unique<Anchors>(model);
  if (type == "centernet") return std::make_unique<CenterNet>(model);
  if (type == "boxes") return std::make_unique<Boxes>(model);
  throw BundleError("decoder.type is '" + type + "', which is not a decoder.", "Upgrade the runtime.");
}

/// Outputs of a network, or of a graph that decodes, to keypoints; checks their shapes and that they are finite.
class Decoding {
 public:
  explicit Decoding(const ModelSpec& model)
      : heads_(model.heads), decoder_(make_decoder(model)), roles_(decoder_->roles()), decoded_roles_(decoder_->decoded_roles()) {
    for (const std::string& head : heads_) {
      for (std::vector<Role>* roles : {&roles_, &decoded_roles_}) roles->push_back({head, "NC", {{1}}});
    }
  }

  const Decoder& decoder() const { return *decoder_; }
  /// The roles of a network, its heads behind those that the decoder reads, or those of a graph that decodes.
  const std::vector<Role>& roles(bool decoded) const { return decoded ? decoded_roles_ : roles_; }

  /// Compares shapes by role with the model, -1 for an open batch; throws E where one differs or is missing.
  template <typename E>
  void check_shapes(const std::vector<std::pair<std::string, std::vector<std::int64_t>>>& shapes) const {
    const auto find = [&](const std::string& role) -> const std::vector<std::int64_t>* {
      for (const auto& [name, shape] : shapes) {
        if (name == role) return &shape;
      }
      return nullptr;
    };
    const std::vector<Role>& wanted = roles(decoder_->decodes([&](const std::string& role) { return find(role) != nullptr; }));
    std::optional<std::int64_t> batch;
    for (const Role& role : wanted) {
      const std::vector<std::int64_t>* shape = find(role.name);
      if (shape == nullptr) {
        throw E("There is no output '" + role.name + "', which the model reads.", "Export again, with the outputs named by their roles.");
      }
      bool fits = shape->size() == role.sizes.size() + 1;
      if (fits && !batch) batch = (*shape)[0];
      fits = fits && (*shape)[0] == *batch;
      for (std::size_t axis = 0; fits && axis < role.sizes.size(); ++axis) {
        const auto& may = role.sizes[axis];
        const std::int64_t is = (*shape)[axis + 1];
        fits = may.empty() ? is >= 0 : std::find(may.begin(), may.end(), is) != may.end();
      }
      if (!fits) {
        std::string said;
        for (const std::int64_t size : *shape) said += (said.empty() ? "" : ", ") + std::to_string(size);
        throw E("The output '" + role.name + "' has shape (" + said + "), which the model does not allow.",
                "Check the order of the network's outputs and of their axes, and the input's size and the decoder's stride.");
      }
    }
  }

  /// Keypoints of outputs by role; see Decoder::decode for `best`.
  Decoded operator()(const Arrays& outputs, bool best) const {
    std::vector<std::pair<std::string, std::vector<std::int64_t>>> shapes;
    for (const auto& [role, array] : outputs) shapes.emplace_back(role, array.shape);
    check_shapes<BackendError>(shapes);
    const bool decoded = decoder_->decodes([&](const std::string& role) { return find_array(outputs, role) != nullptr; });
    Arrays ordered;
    for (const Role& role : roles(decoded)) {
      const Array& array = *find_array(outputs, role.name);
      detail::check_finite("network's output '" + role.name + "' is", array.data, array.size());
      ordered.emplace_back(role.name, array);
    }
    Arrays read(ordered.begin(), ordered.end() - static_cast<std::ptrdiff_t>(heads_.size()));
    Decoded found = decoded ? decoder_->read(read, best) : decoder_->decode(read, best);
    const auto finite = [](const char* what, const std::vector<float>& values) {
      detail::check_finite(what, values.data(), static_cast<std::int64_t>(values.size()));
    };
    finite("decoded keypoints are", found.keypoints), finite("decoded scores are", found.scores);
    finite("decoded depth is", found.depth), finite("decoded boxes of people are", found.boxes);
    finite("decoded scores of people are", found.people_scores);
    for (const std::string& head : heads_) {
      const Array& values = *find_array(outputs, head);
      std::vector<float> clipped(values.data, values.data + values.size());
      std::transform(clipped.begin(), clipped.end(), clipped.begin(), detail::unit);
      found.heads.emplace_back(head, std::move(clipped));
    }
    return found;
  }

 private:
  std::vector<std::string> heads_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<Role> roles_, decoded_roles_;
};

}  // namespace splite
