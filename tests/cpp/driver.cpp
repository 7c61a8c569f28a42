// Runs cases of the tests through the runtime, one JSON line out for each: driver CASES.json ARRAYS.bin [LIBRARY]
//
// An array is {"shape": [...], "offset": N} into the second file: float32, or bytes.
#include <splite/splite.hpp>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>

#include <unistd.h>

using namespace splite;

namespace {

std::vector<char> content_of(const std::string& file) {
  std::ifstream stream(file, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (const char one : text) {
    if (one == '"' || one == '\\') made += '\\';
    if (static_cast<unsigned char>(one) >= 0x20) made += one;
  }
  return made + "\"";
}

template <typename Values>
std::string numbers(const Values& values) {
  std::string made = "[";
  char shown[64];
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::snprintf(shown, sizeof shown, "%s%.9g", i == 0 ? "" : ", ", static_cast<double>(values[i]));
    made += shown;
  }
  return made + "]";
}

std::string of_decoded(const Decoded& found) {
  std::string made = "{\"count\": " + std::to_string(found.count) + ", \"keypoints\": " + numbers(found.keypoints) + ", \"scores\": " + numbers(found.scores);
  if (!found.depth.empty()) made += ", \"depth\": " + numbers(found.depth);
  if (found.finds_people) made += ", \"crops\": " + numbers(found.crops) + ", \"boxes\": " + numbers(found.boxes) + ", \"people_scores\": " + numbers(found.people_scores);
  for (const auto& [head, values] : found.heads) made += ", " + quoted(head) + ": " + numbers(values);
  return made + "}";
}

class Cases {
 public:
  Cases(std::vector<char> arrays, std::string library) : arrays_(std::move(arrays)), library_(std::move(library)) {}

  std::string answer(const Json& one) {
    try {
      return (this->*kKinds.at(one.find("do")->text()))(one);
    } catch (const Error& error) {
      return "{\"error\": " + quoted(error.what()) + ", \"hint\": " + quoted(error.hint()) + "}";
    }
  }

 private:
  static const std::map<std::string, std::string (Cases::*)(const Json&)> kKinds;

  template <typename T>
  const T* array(const Json& said, std::vector<std::int64_t>& shape) const {
    for (const Json& size : said.find("shape")->list()) shape.push_back(size.integer());
    return reinterpret_cast<const T*>(arrays_.data() + said.find("offset")->integer());
  }
  Image image(const Json& said) const {
    std::vector<std::int64_t> shape;
    const auto* data = array<std::uint8_t>(said, shape);
    return Image(data, static_cast<int>(shape.at(0)), static_cast<int>(shape.at(1)));
  }
  static std::optional<Box> box(const Json* said) {
    if (said == nullptr || said->is_null()) return std::nullopt;
    const auto& at = said->list();
    Box made{at[0].number(), at[1].number(), at[2].number(), at[3].number(), std::nullopt};
    if (at.size() > 4) made.angle_deg = at[4].number();
    return made;
  }
  static std::string text(const Json& one, const char* key) { return one.find(key) == nullptr ? "" : one.find(key)->text(); }
  static ModelSpec model(const Json& one) { return detail::read_model({*one.find("model"), "model"}); }

  Estimator& estimator(const Json& one) {
    const std::string folder = text(one, "bundle"), precision = text(one, "precision"), color = text(one, "color");
    auto& held = estimators_[folder + "\n" + precision + "\n" + color];
    if (!held) {
      const Bundle bundle = Bundle::open(folder);
      OrtOptions options;
      options.threads = 1, options.library = library_;
      held = std::make_unique<Estimator>(bundle.model(), open_ort(bundle, precision, options), color.empty() ? "rgb" : color);
    }
    return *held;
  }
  static std::optional<Camera> camera(const Json& one) {
    if (one.find("camera") == nullptr) return std::nullopt;
    Camera made;
    for (std::size_t i = 0; i < 9; ++i) made.matrix[i] = one.find("camera")->list()[i].number();
    made.palm_mm = one.find("palm_mm")->number();
    return made;
  }

  std::string hash(const Json& one) {
    const std::string& said = one.find("text")->text();
    return "{\"sha256\": " + quoted(sha256(said.data(), said.size())) + "}";
  }

  std::string decode(const Json& one) {
    Arrays outputs;
    const Json& said = *one.find("outputs");
    for (std::size_t i = 0; i < said.keys().size(); ++i) {
      Array values;
      values.data = array<float>(said.list()[i], values.shape);
      outputs.emplace_back(said.keys()[i], values);
    }
    const Json* best = one.find("best");
    return of_decoded(Decoding(model(one))(outputs, best != nullptr && best->truth()));
  }

  std::string crop(const Json& one) {
    const ModelSpec spec = model(one);
    const Image source = image(*one.find("image"));
    std::vector<std::uint8_t> made(static_cast<std::size_t>(spec.input.height * spec.input.width * spec.input.channels()));
    Preprocessor preprocessor(spec.input, text(one, "color"));
    const Matrix matrix = preprocessor.crop(source, check_box(box(one.find("box")), source.height, source.width), made.data());
    std::vector<float> planes(made.size());
    preprocessor.normalise(made.data(), planes.data());
    return "{\"matrix\": " + numbers(matrix) + ", \"crop\": " + numbers(made) + ", \"planes\": " + numbers(planes) + "}";
  }

  std::string around(const Json& one) {
    Pose pose;
    for (const Json& point : one.find("keypoints")->list()) pose.keypoints.push_back({static_cast<float>(point.list()[0].number()), static_cast<float>(point.list()[1].number())});
    const auto& turn = one.find("turn")->list();
    const Box found = box_around(pose, {static_cast<int>(turn[0].integer()), static_cast<int>(turn[1].integer())});
    return "{\"box\": " + numbers(std::vector<double>{found.x0, found.y0, found.x1, found.y1, *found.angle_deg}) + "}";
  }

  /// Points of the image in a crop, by its matrix.
  std::string points(const Json& one) {
    const Matrix matrix = crop_matrix(*box(one.find("box")), model(one).input);
    std::vector<double> found;
    for (const Json& point : one.find("points")->list()) {
      for (const double value : transform(matrix, point.list()[0].number(), point.list()[1].number())) found.push_back(value);
    }
    return "{\"points\": " + numbers(found) + "}";
  }

  std::string open(const Json& one) {
    const Bundle bundle = Bundle::open(text(one, "bundle"));
    const GoldenSpec& golden = bundle.golden();
    const std::vector<char> content = bundle.read(golden.file, golden.sha256);
    Arrays outputs;
    for (const GoldenTensor& tensor : golden.tensors) {
      if (tensor.name.rfind("output.", 0) != 0) continue;
      Array values;
      values.data = bundle.golden_tensor<float>(content, tensor.name, values.shape);
      outputs.emplace_back(tensor.name.substr(7), values);
    }
    return "{\"golden\": " + of_decoded(Decoding(bundle.model())(outputs, false)) + "}";
  }

  std::string crops(const Json& one) {
    std::vector<std::int64_t> shape;
    const auto* pixels = array<std::uint8_t>(*one.find("crops"), shape);
    const Json* best = one.find("best");
    return of_decoded(estimator(one).decode_crops(pixels, shape.at(0), best != nullptr && best->truth()));
  }

  static std::string listed(const std::vector<Pose>& poses) {
    std::string made = "{\"poses\": [";
    for (std::size_t i = 0; i < poses.size(); ++i) made += (i == 0 ? "" : ", ") + to_json(poses[i]);
    return made + "]}";
  }

  std::string estimate(const Json& one) {
    Estimator& with = estimator(one);
    const Image source = image(*one.find("image"));
    const std::string how = text(one, "how");
    if (how == "detect") return listed(with.detect(source, box(one.find("box"))));
    if (how == "any angle") return listed({with.at_any_angle(source, box(one.find("box")), camera(one))});
    return listed({with(source, box(one.find("box")), camera(one))});
  }

  /// Frames of one person, each looked at where the last one was found.
  std::string track(const Json& one) {
    BoxTracker tracker(estimator(one), box(one.find("box")));
    std::vector<Pose> poses;
    std::string found;
    for (const Json& frame : one.find("frames")->list()) {
      poses.push_back(tracker(image(frame)));
      found += (found.empty() ? "" : ", ") + std::string(tracker.found() ? "true" : "false");
    }
    std::string made = listed(poses);
    return made.substr(0, made.size() - 1) + ", \"found\": [" + found + "]}";
  }

  /// Keypoints of pictures, each in its box, and how long one took from image to pose, `rounds` times each.
  std::string time(const Json& one) {
    using Clock = std::chrono::steady_clock;
    Estimator& with = estimator(one);
    const auto& images = one.find("images")->list();
    const auto& boxes = one.find("boxes")->list();
    std::vector<float> keypoints;
    std::vector<double> taken_ms;
    for (std::int64_t round = 0; round < one.find("rounds")->integer(); ++round) {
      for (std::size_t i = 0; i < images.size(); ++i) {
        const Image source = image(images[i]);
        const auto begin = Clock::now();
        const Pose pose = with(source, box(&boxes[i]));
        taken_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begin).count());
        for (std::size_t point = 0; round == 0 && point < pose.keypoints.size(); ++point) {
          keypoints.insert(keypoints.end(), pose.keypoints[point].begin(), pose.keypoints[point].end());
        }
      }
    }
    return "{\"keypoints\": " + numbers(keypoints) + ", \"ms\": " + numbers(taken_ms) + "}";
  }

  static double resident_bytes() {
    std::ifstream stream("/proc/self/statm");
    double whole = 0, resident = 0;
    stream >> whole >> resident;
    return resident * static_cast<double>(sysconf(_SC_PAGESIZE));
  }

  /// Many frames, each looked at in a box, and followed by a tracker: the memory that the process holds after each
  /// twentieth of them, how many poses were not those of the first round, and how often the tracker kept its person.
  std::string frames(const Json& one) {
    Estimator& with = estimator(one);
    const auto& images = one.find("images")->list();
    const auto& boxes = one.find("boxes")->list();
    const std::int64_t count = one.find("count")->integer();
    BoxTracker tracker(with, box(&boxes[0]));
    std::vector<std::pair<Pose, std::string>> first;
    std::vector<double> resident;
    std::int64_t changed = 0, followed = 0;
    for (std::int64_t frame = 0; frame < count; ++frame) {
      const auto index = static_cast<std::size_t>(frame) % images.size();
      const Image source = image(images[index]);
      const Pose pose = with(source, box(&boxes[index]));
      const std::string shown = to_json(pose);
      if (first.size() < images.size()) first.emplace_back(pose, shown);
      const auto& [wanted, wanted_shown] = first[index];
      changed += pose.keypoints != wanted.keypoints || pose.scores != wanted.scores || shown != wanted_shown;
      tracker(source);
      followed += tracker.found();
      if ((frame + 1) % (count / 20) == 0) resident.push_back(resident_bytes());
    }
    return "{\"resident_bytes\": " + numbers(resident) + ", \"changed\": " + std::to_string(changed) + ", \"followed\": " + std::to_string(followed) + "}";
  }

  std::vector<char> arrays_;
  std::string library_;
  std::map<std::string, std::unique_ptr<Estimator>> estimators_;
};

const std::map<std::string, std::string (Cases::*)(const Json&)> Cases::kKinds = {
    {"hash", &Cases::hash}, {"decode", &Cases::decode}, {"crop", &Cases::crop}, {"around", &Cases::around}, {"points", &Cases::points},
    {"open", &Cases::open}, {"crops", &Cases::crops}, {"estimate", &Cases::estimate}, {"track", &Cases::track},
    {"time", &Cases::time}, {"frames", &Cases::frames}};

}  // namespace

int main(int count, char** given) {
  if (count < 3) return 2;
  try {
    Cases cases(content_of(given[2]), count > 3 ? given[3] : "");
    const std::vector<char> text = content_of(given[1]);
    const Json all = Json::parse({text.data(), text.size()});
    for (const Json& one : all.list()) std::cout << cases.answer(one) << "\n";
  } catch (const Error& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
  return 0;
}
