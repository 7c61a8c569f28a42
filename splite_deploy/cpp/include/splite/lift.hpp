// 2D keypoints and relative depth to 3D keypoints; see "Three dimensions" in docs/bundle-format.md.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "error.hpp"
#include "model.hpp"

namespace splite {

using Point3 = std::array<float, 3>;

/// A camera matrix for pixels whose origin is the corner of the first one (add 0.5 to cx and cy of an OpenCV calibration),
/// row-major, and the palm length of the person in millimetres.
struct Camera {
  std::array<double, 9> matrix{};
  double palm_mm = 0.0;
};

namespace detail {

struct BoneSums {
  double across = 0.0;  ///< squares in the plane
  double along = 0.0;   ///< squares of depth
};

inline BoneSums bone_sums(const float* keypoints, const float* depth, const std::vector<std::pair<int, int>>& bones) {
  BoneSums sums;
  for (const auto& [a, b] : bones) {
    const double dx = double{keypoints[2 * a]} - keypoints[2 * b], dy = double{keypoints[2 * a + 1]} - keypoints[2 * b + 1];
    const double dz = double{depth[a]} - depth[b];
    sums.across += dx * dx + dy * dy, sums.along += dz * dz;
  }
  if (!(sums.across < 3.4e38 && sums.along < 3.4e38)) {
    throw BackendError("The lengths of bones are not finite: the network gives keypoints or depths near the end of float32.",
                       "Look at the network's weights: they are damaged, or its training diverged.");
  }
  return sums;
}

constexpr double kLeastPx2 = 1e-6;

}  // namespace detail

/// Depths in pixels of the image as depths in palms; none where the palm has no extent in the image.
inline std::optional<std::vector<float>> in_palms(const float* keypoints, std::vector<float> depth, const DecoderSpec& of) {
  const auto [across, along] = detail::bone_sums(keypoints, depth.data(), of.scale_bones);
  if (across < detail::kLeastPx2) return std::nullopt;
  const double palm_px = std::sqrt((across + along) / static_cast<double>(of.scale_bones.size()));
  for (float& one : depth) one = static_cast<float>(one / palm_px);
  return depth;
}

/// Root-relative 3D with one scale for all K keypoints, in the unit of `depth`; `palm` is the palm length in that unit.
inline std::optional<std::vector<Point3>> weak_perspective(const float* keypoints, const std::vector<float>& depth, const DecoderSpec& of, double palm) {
  constexpr double kMinVisibleShare = 0.05;  // keeps the scale finite where depths alone are longer than the palm
  const auto [across, along] = detail::bone_sums(keypoints, depth.data(), of.scale_bones);
  if (across < detail::kLeastPx2) return std::nullopt;
  const double total = static_cast<double>(of.scale_bones.size()) * palm * palm;
  const double scale = std::sqrt(across / std::max(total - along, kMinVisibleShare * total));
  const auto root = static_cast<std::size_t>(of.root_keypoint);
  std::vector<Point3> points;
  for (std::size_t i = 0; i < depth.size(); ++i) {
    points.push_back({static_cast<float>((keypoints[2 * i] - keypoints[2 * root]) / scale),
                      static_cast<float>((keypoints[2 * i + 1] - keypoints[2 * root + 1]) / scale), depth[i] - depth[root]});
  }
  return points;
}

/// The inverse of a camera matrix; throws UsageError where camera or palm length cannot be used.
inline std::array<double, 9> checked_camera(const Camera& camera) {
  const auto& m = camera.matrix;
  bool usable = m[6] == 0.0 && m[7] == 0.0 && m[8] == 1.0;
  for (const double one : m) usable = usable && std::abs(one) <= 1e7;
  const double determinant = m[0] * m[4] - m[1] * m[3];
  if (!usable || !(std::abs(determinant) >= 1e-12)) {
    throw UsageError("The intrinsics are not an invertible (3, 3) camera matrix in pixels.", "Pass fx, 0, cx, 0, fy, cy, 0, 0, 1.");
  }
  if (!(camera.palm_mm >= 0.1 && camera.palm_mm <= 1e4)) {
    throw UsageError("The bone length does not lie between 0.1 and 10000 mm.", "Measure it in millimetres.");
  }
  const double by = 1.0 / determinant;
  return {m[4] * by, -m[1] * by, (m[1] * m[5] - m[2] * m[4]) * by, -m[3] * by, m[0] * by, (m[2] * m[3] - m[0] * m[5]) * by, 0.0, 0.0, 1.0};
}

/// 3D in camera coordinates, millimetres; none where nothing tells the distance, or where a keypoint would not lie in
/// front of the camera. `depth` is in millimetres where that is the decoder's unit, else in palms.
inline std::optional<std::vector<Point3>> absolute(const float* keypoints, const std::vector<float>& depth, const DecoderSpec& of, const Camera& camera) {
  const std::array<double, 9> back = checked_camera(camera);
  const std::size_t count = depth.size();
  std::vector<std::array<double, 3>> rays(count);
  std::vector<double> z(count);
  for (std::size_t i = 0; i < count; ++i) {
    const double x = keypoints[2 * i], y = keypoints[2 * i + 1];
    rays[i] = {back[0] * x + back[1] * y + back[2], back[3] * x + back[4] * y + back[5], 1.0};
    z[i] = (double{depth[i]} - depth[static_cast<std::size_t>(of.root_keypoint)]) / (of.unit == "mm" ? camera.palm_mm : 1.0);
  }
  double a = 0.0, b = 0.0, c = -static_cast<double>(of.scale_bones.size());
  for (const auto& [first, second] : of.scale_bones) {
    const auto i = static_cast<std::size_t>(first), j = static_cast<std::size_t>(second);
    for (std::size_t axis = 0; axis < 3; ++axis) {
      const double step = rays[i][axis] - rays[j][axis], offset = z[i] * rays[i][axis] - z[j] * rays[j][axis];
      a += step * step, b += 2 * step * offset, c += offset * offset;
    }
  }
  if (a < 1e-12) return std::nullopt;
  // A negative discriminant means depths longer than the palm allows; the vertex is then the closest distance
  const double root = (-b + std::sqrt(std::max(b * b - 4 * a * c, 0.0))) / (2 * a);
  std::vector<Point3> points;
  for (std::size_t i = 0; i < count; ++i) {
    Point3 point{};
    for (std::size_t axis = 0; axis < 3; ++axis) point[axis] = static_cast<float>(camera.palm_mm * (root + z[i]) * rays[i][axis]);
    if (!(point[2] > 0.0f)) return std::nullopt;
    points.push_back(point);
  }
  return points;
}

}  // namespace splite
