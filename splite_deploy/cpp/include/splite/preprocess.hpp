// From an image and a box to the network's input; see "Preprocessing" in docs/bundle-format.md.
//
// Sampling is that of OpenCV 4, in steps of 1/32 pixel with integers: crops are the bytes that the Python runtime cuts.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "model.hpp"

namespace splite {

/// An image of 3 bytes a pixel. It does not own them.
struct Image {
  const std::uint8_t* data = nullptr;
  int height = 0;
  int width = 0;
  std::ptrdiff_t row_bytes = 0;  ///< from one row to the next

  Image() = default;
  Image(const std::uint8_t* pixels, int rows, int columns, std::ptrdiff_t bytes_of_row = 0)
      : data(pixels), height(rows), width(columns), row_bytes(bytes_of_row == 0 ? std::ptrdiff_t{3} * columns : bytes_of_row) {}
};

/// x0, y0, x1, y1 in pixels of the image; with an angle it is turned about its centre, clockwise.
struct Box {
  double x0 = 0.0, y0 = 0.0, x1 = 0.0, y1 = 0.0;
  std::optional<double> angle_deg;
};

/// Row-major 2 x 3: pixels of the image to pixels of the crop.
using Matrix = std::array<double, 6>;

/// Cosine and sine of an angle; those of multiples of 90 degrees are exact.
inline std::array<double, 2> cosine_and_sine(double angle_deg) {
  const double quarters = std::floor(angle_deg / 90.0), rest = angle_deg - 90.0 * quarters;
  if (rest == 0.0) {
    constexpr double kCosines[] = {1.0, 0.0, -1.0, 0.0}, kSines[] = {0.0, 1.0, 0.0, -1.0};
    const auto at = static_cast<std::size_t>(quarters - 4.0 * std::floor(quarters / 4.0));
    return {kCosines[at], kSines[at]};
  }
  const double radians = angle_deg * 3.14159265358979323846 / 180.0;
  return {std::cos(radians), std::sin(radians)};
}

/// The same angle, over -180 and up to 180 degrees.
inline double wrapped(double angle_deg) {
  const double rest = std::fmod(180.0 - angle_deg, 360.0);
  return 180.0 - (rest < 0.0 ? rest + 360.0 : rest);
}

namespace detail {

/// The box (x0, y0, x1, y1) that just holds a turned one.
inline std::array<double, 4> bounds_of(const Box& box) {
  if (!box.angle_deg) return {box.x0, box.y0, box.x1, box.y1};
  const auto [cosine, sine] = cosine_and_sine(*box.angle_deg);
  const double x = (box.x0 + box.x1) / 2, y = (box.y0 + box.y1) / 2;
  const double w = (box.x1 - box.x0) / 2, h = (box.y1 - box.y0) / 2;
  const double across = std::abs(cosine) * w + std::abs(sine) * h, down = std::abs(sine) * w + std::abs(cosine) * h;
  return {x - across, y - down, x + across, y + down};
}

inline int to_int(double value) {
  const double rounded = std::nearbyint(value);
  if (!(rounded > -2147483648.0)) return std::numeric_limits<int>::min();
  return rounded < 2147483647.0 ? static_cast<int>(rounded) : std::numeric_limits<int>::max();
}

}  // namespace detail

/// Refuses a box that is empty, not finite, of an impossible size, or outside of the image. None is the whole image.
inline Box check_box(const std::optional<Box>& box, int height, int width) {
  if (!box) return {0.0, 0.0, static_cast<double>(width), static_cast<double>(height), std::nullopt};
  const char* hint = "Pass x0, y0, x1, y1 in pixels of the image, with x1 > x0 and y1 > y0.";
  for (const double value : {box->x0, box->y0, box->x1, box->y1, box->angle_deg.value_or(0.0)}) {
    if (!std::isfinite(value)) throw UsageError("The box is not four finite numbers.", hint);
  }
  const double across = box->x1 - box->x0, down = box->y1 - box->y0;
  if (across <= 0 || down <= 0) throw UsageError("The box is empty.", hint);
  if (std::max(across, down) > 1e6 || std::min(across, down) < 1e-3) throw UsageError("The box has an impossible size.", hint);
  if (std::abs(box->angle_deg.value_or(0.0)) > 1e6) throw UsageError("The angle of the box is none.", "Pass degrees, from -180 to 180.");
  const auto [x0, y0, x1, y1] = detail::bounds_of(*box);
  if (x1 <= 0 || y1 <= 0 || x0 >= width || y0 >= height) throw UsageError("The box lies outside the image.", hint);
  return *box;
}

/// Maps pixels of the image to those of the input: the box grows to the input's aspect and by `box_padding`.
inline Matrix crop_matrix(const Box& box, const InputSpec& spec) {
  const double scale = std::min(spec.width / (box.x1 - box.x0), spec.height / (box.y1 - box.y0)) / spec.box_padding;
  const double x = (box.x0 + box.x1) / 2, y = (box.y0 + box.y1) / 2;
  if (box.angle_deg) {
    if (!spec.rotate_by) {
      throw UsageError("The box has an angle, and crops of this model are not turned.", "Pass a box without an angle.");
    }
    const auto [cosine, sine] = cosine_and_sine(-*box.angle_deg);
    const double a = scale * cosine, b = -scale * sine, c = scale * sine, d = scale * cosine;
    return {a, b, spec.width / 2.0 - (a * x + b * y), c, d, spec.height / 2.0 - (c * x + d * y)};
  }
  if (spec.letterbox == "corner") {
    const double grow = (spec.box_padding - 1) / 2;
    return {scale, 0.0, -scale * (box.x0 - grow * (box.x1 - box.x0)), 0.0, scale, -scale * (box.y0 - grow * (box.y1 - box.y0))};
  }
  return {scale, 0.0, spec.width / 2.0 - scale * (box.x0 + box.x1) / 2, 0.0, scale, spec.height / 2.0 - scale * (box.y0 + box.y1) / 2};
}

inline Matrix invert(const Matrix& m) {
  const double determinant = m[0] * m[4] - m[1] * m[3];
  const double by = determinant != 0.0 ? 1.0 / determinant : 0.0;
  const double a = m[4] * by, b = -m[1] * by, c = -m[3] * by, d = m[0] * by;
  return {a, b, -a * m[2] - b * m[5], c, d, -c * m[2] - d * m[5]};
}

inline std::array<double, 2> transform(const Matrix& m, double x, double y) {
  return {m[0] * x + m[1] * y + m[2], m[3] * x + m[4] * y + m[5]};
}

/// Crops and normalises for one input. It keeps its memory from call to call.
class Preprocessor {
 public:
  /// `color` is the channel order of the images, "rgb" or "bgr".
  Preprocessor(const InputSpec& spec, const std::string& color) : spec_(spec), color_(color) {
    for (std::size_t i = 0; i < spec.deviation.size(); ++i) {
      const auto scale = static_cast<float>(1.0 / spec.deviation[i]), offset = static_cast<float>(-spec.mean[i] / spec.deviation[i]);
      for (int level = 0; level < 256; ++level) table_.push_back(static_cast<float>(level) * scale + offset);
    }
  }

  /// Cuts a crop of (h, w, C) bytes, channels in the order of the input; gives the matrix from the image to it.
  Matrix crop(const Image& image, const Box& box, std::uint8_t* to) {
    const Matrix matrix = crop_matrix(box, spec_);
    Image source = image;
    Matrix reduced = matrix;
    const double area = std::abs(matrix[0] * matrix[4] - matrix[1] * matrix[3]);
    const int halvings = static_cast<int>(std::log2(std::max(1.0, 1.0 / std::sqrt(area))));
    if (halvings > 0) source = reduce(image, matrix, halvings, reduced);
    sample(source, reduced);
    in_order(to);
    return matrix;
  }

  /// A crop of (h, w, C) bytes to (C, h, w) float32.
  void normalise(const std::uint8_t* crop, float* to) const {
    const auto pixels = static_cast<std::size_t>(spec_.height) * static_cast<std::size_t>(spec_.width);
    if (spec_.channels() == 1) {
      for (std::size_t i = 0; i < pixels; ++i) to[i] = table_[crop[i]];
      return;
    }
    // Every level of a channel has one value, and a table of them takes half the time of the arithmetic
    const float *first = table_.data(), *second = first + 256, *third = second + 256;
    for (std::size_t i = 0; i < pixels; ++i) {
      to[i] = first[crop[3 * i]];
      to[pixels + i] = second[crop[3 * i + 1]];
      to[2 * pixels + i] = third[crop[3 * i + 2]];
    }
  }

 private:
  /// Halves the part of the image that the crop sees, so often, by averaging 2 x 2 pixels; see step 2 of the page.
  Image reduce(const Image& image, const Matrix& matrix, int halvings, Matrix& reduced) {
    const double factor = std::ldexp(1.0, halvings);
    const Matrix back = invert(matrix);
    const double a = back[0] * spec_.width, b = back[1] * spec_.height, c = back[3] * spec_.width, d = back[4] * spec_.height;
    const auto low = [&](double first, double second, double at) {
      return std::max(std::floor(std::min(first, 0.0) + std::min(second, 0.0) + at - 2 * factor), 0.0);
    };
    const auto high = [&](double first, double second, double at, int size) {
      const double end = std::ceil(std::max(first, 0.0) + std::max(second, 0.0) + at + 2 * factor);
      return static_cast<int>(std::clamp(end, 0.0, static_cast<double>(size)));
    };
    const double from_left = low(a, b, back[2]), from_top = low(c, d, back[5]);
    const int right = high(a, b, back[2], image.width), bottom = high(c, d, back[5], image.height);
    reduced[2] = matrix[2] + (matrix[0] * from_left + matrix[1] * from_top);
    reduced[5] = matrix[5] + (matrix[3] * from_left + matrix[4] * from_top);
    if (from_left >= right || from_top >= bottom) return {image.data, 1, 1, image.row_bytes};  // the crop sees the padding alone
    const int left = static_cast<int>(from_left), top = static_cast<int>(from_top);
    const int across = std::min(halvings, log2_of(right - left)), down = std::min(halvings, log2_of(bottom - top));
    Image part(image.data + top * image.row_bytes + std::ptrdiff_t{3} * left, (bottom - top) >> down << down, (right - left) >> across << across, image.row_bytes);
    for (int step = 0; step < halvings; ++step) {
      const int width = part.width >> (step < across ? 1 : 0), height = part.height >> (step < down ? 1 : 0);
      std::vector<std::uint8_t>& to = halved_[static_cast<std::size_t>(step % 2)];
      to.resize(static_cast<std::size_t>(3) * static_cast<std::size_t>(width) * static_cast<std::size_t>(height));
      halve(part, step < across, step < down, height, width, to.data());
      part = Image(to.data(), height, width);
    }
    const double right_factor = std::ldexp(1.0, across), down_factor = std::ldexp(1.0, down);
    reduced[0] *= right_factor, reduced[1] *= down_factor, reduced[3] *= right_factor, reduced[4] *= down_factor;
    return part;
  }

  static int log2_of(int size) {
    int found = 0;
    while (size >> (found + 1) > 0) ++found;
    return found;
  }

  static void halve(const Image& image, bool across, bool down, int height, int width, std::uint8_t* to) {
    const std::ptrdiff_t right = across ? 3 : 0, below = down ? image.row_bytes : 0;
    const std::ptrdiff_t step = across ? 6 : 3;
    for (int row = 0; row < height; ++row) {
      const std::uint8_t* from = image.data + (down ? 2 : 1) * std::ptrdiff_t{row} * image.row_bytes;
      for (int column = 0; column < width; ++column, from += step, to += 3) {
        for (int channel = 0; channel < 3; ++channel) {
          const int total = from[channel] + from[channel + right] + from[channel + below] + from[channel + right + below];
          to[channel] = static_cast<std::uint8_t>((total + 2) >> 2);  // half up; of two pixels, each of which counts twice, too
        }
      }
    }
  }

  /// Bilinear sampling in fixed point: places in steps of 1/32 pixel, of numbers that are rounded to 1/1024.
  void sample(const Image& image, const Matrix& matrix) {
    constexpr int kBits = 5, kPlaceBits = 10, kSteps = 1 << kBits;
    constexpr double kPlaces = 1 << kPlaceBits;
    constexpr std::int64_t kFar = 1 << 30;  // beyond every image
    for (Row& row : rows_) row.number = kNoRow;
    const int height = spec_.height, width = spec_.width;
    // OpenCV's origin is the centre of the first pixel
    Matrix m = matrix;
    m[2] += (m[0] + m[1] - 1) / 2, m[5] += (m[3] + m[4] - 1) / 2;
    m = invert(m);
    sampled_.resize(static_cast<std::size_t>(3) * static_cast<std::size_t>(height) * static_cast<std::size_t>(width));
    across_.resize(static_cast<std::size_t>(width)), down_.resize(static_cast<std::size_t>(width));
    for (int x = 0; x < width; ++x) {
      across_[static_cast<std::size_t>(x)] = detail::to_int(m[0] * x * kPlaces);
      down_[static_cast<std::size_t>(x)] = detail::to_int(m[3] * x * kPlaces);
    }
    std::uint8_t* to = sampled_.data();
    const auto pad = static_cast<std::uint8_t>(spec_.pad_value);
    constexpr int kHalfStep = 1 << (kPlaceBits - kBits - 1);
    if (m[1] == 0.0 && m[3] == 0.0) {
      const std::int64_t x_begin = std::int64_t{detail::to_int(m[2] * kPlaces)} + kHalfStep;
      for (int& x : across_) x = static_cast<int>(std::clamp<std::int64_t>((x_begin + x) >> (kPlaceBits - kBits), -kFar, kFar));
      for (int y = 0; y < height; ++y, to += 3 * width) {
        const std::int64_t v = (std::int64_t{detail::to_int((m[4] * y + m[5]) * kPlaces)} + kHalfStep) >> (kPlaceBits - kBits);
        const std::uint16_t* above = resampled(image, v >> kBits);
        blend(above, resampled(image, (v >> kBits) + 1), static_cast<int>(v & (kSteps - 1)), to);
      }
      return;
    }
    for (int y = 0; y < height; ++y) {
      const std::int64_t x_begin = std::int64_t{detail::to_int((m[1] * y + m[2]) * kPlaces)} + kHalfStep;
      const std::int64_t y_begin = std::int64_t{detail::to_int((m[4] * y + m[5]) * kPlaces)} + kHalfStep;
      for (int x = 0; x < width; ++x, to += 3) {
        const std::int64_t u = (x_begin + across_[static_cast<std::size_t>(x)]) >> (kPlaceBits - kBits);
        const std::int64_t v = (y_begin + down_[static_cast<std::size_t>(x)]) >> (kPlaceBits - kBits);
        const std::int64_t column = u >> kBits, row = v >> kBits;
        const int fx = static_cast<int>(u & (kSteps - 1)), fy = static_cast<int>(v & (kSteps - 1));
        const int weights[] = {(kSteps - fx) * (kSteps - fy), fx * (kSteps - fy), (kSteps - fx) * fy, fx * fy};
        if (column >= 0 && row >= 0 && column < image.width - 1 && row < image.height - 1) {
          const std::uint8_t* above = image.data + row * image.row_bytes + 3 * column;
          const std::uint8_t* below = above + image.row_bytes;
          for (int i = 0; i < 3; ++i) {
            const int total = above[i] * weights[0] + above[i + 3] * weights[1] + below[i] * weights[2] + below[i + 3] * weights[3];
            to[i] = static_cast<std::uint8_t>((total + (kSteps * kSteps / 2)) >> (2 * kBits));
          }
        } else {
          for (int i = 0; i < 3; ++i) {
            const auto at = [&](std::int64_t c, std::int64_t r) -> int {
              const bool inside = c >= 0 && r >= 0 && c < image.width && r < image.height;
              return inside ? image.data[r * image.row_bytes + 3 * c + i] : pad;
            };
            const int total = at(column, row) * weights[0] + at(column + 1, row) * weights[1] + at(column, row + 1) * weights[2] + at(column + 1, row + 1) * weights[3];
            to[i] = static_cast<std::uint8_t>((total + (kSteps * kSteps / 2)) >> (2 * kBits));
          }
        }
      }
    }
  }

  /// A row of the image, sampled across in steps of 1/32 pixel: levels times 32. Of a crop that is not turned both axes are
  /// sampled one after the other, which gives the same whole numbers with fewer steps.
  const std::uint16_t* resampled(const Image& image, std::int64_t row) {
    row = row < 0 || row >= image.height ? -1 : row;
    if (rows_[0].number == row) return rows_[0].levels.data();
    std::swap(rows_[0], rows_[1]);  // the one that was used last stays
    Row& made = rows_[0];
    if (made.number == row) return made.levels.data();
    made.number = row;
    made.levels.assign(across_.size() * 3, static_cast<std::uint16_t>(32 * spec_.pad_value));
    if (row < 0) return made.levels.data();
    const std::uint8_t* from = image.data + row * image.row_bytes;
    std::uint16_t* to = made.levels.data();
    for (const int u : across_) {
      const int column = u >> 5, right = u & 31, left = 32 - right;
      if (column >= 0 && column < image.width - 1) {
        const std::uint8_t* at = from + std::ptrdiff_t{3} * column;
        for (int i = 0; i < 3; ++i) to[i] = static_cast<std::uint16_t>(at[i] * left + at[i + 3] * right);
      } else if (column >= -1 && column < image.width) {
        for (int i = 0; i < 3; ++i) {
          const int first = column >= 0 ? from[std::ptrdiff_t{3} * column + i] : spec_.pad_value;
          const int second = column + 1 < image.width ? from[std::ptrdiff_t{3} * (column + 1) + i] : spec_.pad_value;
          to[i] = static_cast<std::uint16_t>(first * left + second * right);
        }
      }
      to += 3;
    }
    return made.levels.data();
  }

  /// Two rows of `resampled` to one of the crop.
  void blend(const std::uint16_t* above, const std::uint16_t* below, int down, std::uint8_t* to) const {
    const int up = 32 - down;
    const std::size_t count = across_.size() * 3;
    for (std::size_t i = 0; i < count; ++i) to[i] = static_cast<std::uint8_t>((above[i] * up + below[i] * down + 512) >> 10);
  }

  /// The sampled pixels with their channels in the order of the input.
  void in_order(std::uint8_t* to) const {
    const std::size_t pixels = sampled_.size() / 3;
    const std::uint8_t* from = sampled_.data();
    if (spec_.color == "gray") {
      // 0.299, 0.587 and 0.114 in parts of 2^15, which sum to one, as OpenCV has them
      const int red = 9798, green = 19235, blue = 3735, at_red = color_ == "rgb" ? 0 : 2;
      for (std::size_t i = 0; i < pixels; ++i) {
        const int total = from[3 * i + static_cast<std::size_t>(at_red)] * red + from[3 * i + 1] * green + from[3 * i + static_cast<std::size_t>(2 - at_red)] * blue;
        to[i] = static_cast<std::uint8_t>((total + (1 << 14)) >> 15);
      }
    } else if (spec_.color == color_) {
      std::copy(sampled_.begin(), sampled_.end(), to);
    } else {
      for (std::size_t i = 0; i < pixels; ++i) to[3 * i] = from[3 * i + 2], to[3 * i + 1] = from[3 * i + 1], to[3 * i + 2] = from[3 * i];
    }
  }

  const InputSpec spec_;
  const std::string color_;
  std::vector<float> table_;  ///< 256 values of each channel
  std::vector<std::uint8_t> sampled_;
  std::array<std::vector<std::uint8_t>, 2> halved_;
  std::vector<int> across_, down_;

  static constexpr std::int64_t kNoRow = -2;
  struct Row {
    std::int64_t number = kNoRow;  ///< of the image; -1 for all that lie outside
    std::vector<std::uint16_t> levels;
  };
  std::array<Row, 2> rows_;
};

}  // namespace splite
