// Finds keypoints by the bundle of this project in pictures, in raw frames or before a camera, and writes a line of JSON
// for each: pose --help
// SPDX-License-Identifier: Apache-2.0
#include <splite/splite.hpp>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <new>
#include <set>
#include <string>
#include <vector>

#include "camera.hpp"
#include "picture.hpp"

#if __has_include("place.hpp")
#include "place.hpp"
#else  // compiled without CMake
#define SPLITE_BUNDLE "model.splite"
#endif

namespace {

constexpr const char* kHelp = R"(Usage: pose [OPTION]... [PICTURE]...

Finds keypoints, and writes a line of JSON for each picture or frame.

  PICTURE                 JPEG, PNG, BMP, TGA, PPM; not turned as EXIF may say
  --frames WIDTHxHEIGHT   read raw RGB frames from standard input:
                          ffmpeg -i FILE -f rawvideo -pix_fmt rgb24 - | pose --frames 640x480
  --camera DEVICE         read frames of a V4L2 camera, such as /dev/video0 (Linux)
  --box X0,Y0,X1,Y1       where to look, in pixels; the whole picture without it
  --bundle FOLDER         another bundle
  --precision PRECISION   fp32, fp16 or int8; the first of the bundle without it
  --threads NUMBER        of the CPU; one per core without it
  --library FILE          the library of ONNX Runtime; also by SPLITE_ONNXRUNTIME

A detector of hands or people gives all that it finds. Other networks look into the box; in frames they follow one hand
or person from there.
)";

constexpr int kMostThreads = 1024, kMostSide = 1 << 14;  // what lies beyond is a slip of the finger

struct Options {
  std::string bundle = SPLITE_BUNDLE, precision, camera;
  splite::OrtOptions ort;
  std::optional<splite::Box> box;
  int width = 0, height = 0;
  std::vector<std::string> pictures;
};

Options parse(int count, char** given) {
  Options options;
  std::set<std::string> seen;
  for (int i = 1; i < count; ++i) {
    const std::string name = given[i];
    if (name == "--help" || name == "-h") {
      std::cout << kHelp;
      std::exit(0);
    }
    if (name.rfind('-', 0) != 0) {
      options.pictures.push_back(name);
      continue;
    }
    const char* hint = "See pose --help.";
    if (i + 1 == count) throw splite::UsageError("The option " + name + " is unknown, or needs a value.", hint);
    if (!seen.insert(name).second) throw splite::UsageError("The option " + name + " is given twice.", "Give it once.");
    const std::string value = given[++i];
    char rest = 0;
    if (name == "--bundle") {
      options.bundle = value;
    } else if (name == "--precision") {
      options.precision = value;
    } else if (name == "--camera") {
      options.camera = value;
    } else if (name == "--library") {
      options.ort.library = value;
    } else if (name == "--threads" && std::sscanf(value.c_str(), "%6d%c", &options.ort.threads, &rest) == 1 && options.ort.threads > 0 && options.ort.threads <= kMostThreads) {
    } else if (name == "--frames" && std::sscanf(value.c_str(), "%6dx%6d%c", &options.width, &options.height, &rest) == 2 && std::min(options.width, options.height) > 0 && std::max(options.width, options.height) <= kMostSide) {
    } else if (splite::Box box; name == "--box" && std::sscanf(value.c_str(), "%lf,%lf,%lf,%lf%c", &box.x0, &box.y0, &box.x1, &box.y1, &rest) == 4) {
      options.box = box;
    } else {
      throw splite::UsageError("The option " + name + " " + value + " is unknown or wrong.", hint);
    }
  }
  if (options.pictures.empty() && options.width == 0 && options.camera.empty()) {
    throw splite::UsageError("There is nothing to look at.", "Name pictures, or see pose --help.");
  }
  return options;
}

std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (const char one : text) {
    char shown[8];
    std::snprintf(shown, sizeof shown, static_cast<unsigned char>(one) < 0x20 ? "\\u%04x" : one == '"' || one == '\\' ? "\\%c" : "%c", one);
    made += shown;
  }
  return made + "\"";
}

/// A line of JSON: the source, then its poses.
void write(const std::string& source, const std::vector<splite::Pose>& poses) {
  std::string line = "{" + source + ", \"poses\": [";
  for (std::size_t i = 0; i < poses.size(); ++i) line += (i == 0 ? "" : ", ") + splite::to_json(poses[i]);
  std::cout << line << "]}" << std::endl;  // flushed, for whoever reads frame by frame
}

/// Frames one after the other, and how many there were; `next` gives nothing at their end.
template <typename Next>
long follow(splite::Estimator& estimator, const std::optional<splite::Box>& box, Next&& next) {
  std::optional<splite::BoxTracker> tracker;
  if (!estimator.finds_people()) tracker.emplace(estimator, box);
  long frame = 0;
  for (; const splite::Image* image = next(); ++frame) {
    const std::string source = "\"frame\": " + std::to_string(frame);
    if (tracker) {
      const splite::Pose pose = (*tracker)(*image);
      write(source, tracker->found() ? std::vector<splite::Pose>{pose} : std::vector<splite::Pose>{});
    } else {
      write(source, estimator.detect(*image, box));
    }
  }
  return frame;
}

void run(const Options& options) {
  const splite::Bundle bundle = splite::Bundle::open(options.bundle);
  splite::Estimator estimator(bundle.model(), splite::open_ort(bundle, options.precision, options.ort), "rgb");
  for (const std::string& file : options.pictures) {
    const Picture picture(file);
    const auto& image = picture.image();
    write("\"image\": " + quoted(file), estimator.finds_people() ? estimator.detect(image, options.box)
                                                                 : std::vector<splite::Pose>{estimator.at_any_angle(image, options.box)});
  }
  if (options.width > 0) {
    std::vector<std::uint8_t> pixels(std::size_t{3} * static_cast<std::size_t>(options.width) * static_cast<std::size_t>(options.height));
    const splite::Image image(pixels.data(), options.height, options.width);
    std::size_t last = 0;
    const long found = follow(estimator, options.box, [&] { return (last = std::fread(pixels.data(), 1, pixels.size(), stdin)) == pixels.size() ? &image : nullptr; });
    if (last > 0 || found == 0) {
      const std::string whole = std::to_string(pixels.size());
      throw splite::UsageError(last > 0 ? "The frames end within one, after " + std::to_string(last) + " of " + whole + " bytes." : "Standard input gave no frame.",
                               "A frame has WIDTH x HEIGHT x 3 bytes, of ffmpeg's -pix_fmt rgb24; compare the size with that of the video.");
    }
  }
  if (!options.camera.empty()) {
    Camera camera(options.camera);
    follow(estimator, options.box, [&] { return camera.next(); });
  }
}

}  // namespace

int main(int count, char** given) {
  try {
    run(parse(count, given));
    return 0;
  } catch (const splite::Error& error) {
    std::cerr << "error: " << error.what() << "\nhint:  " << error.hint() << "\n";
  } catch (const std::bad_alloc&) {
    std::cerr << "error: There is not enough memory.\nhint:  Give smaller pictures or a smaller network.\n";
  }
  return 1;
}
