// A reader of JSON (RFC 8259) for manifests: it reads whole texts alone, and writes nothing.
//
// Strict where Python's reader is strict: no comments, no trailing commas, no NaN, valid UTF-8. Of a key that comes twice
// the last one counts. Nesting is limited, so that no text can exhaust the stack.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <locale>
#include <sstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "error.hpp"

namespace splite {

/// A value of JSON.
class Json {
 public:
  enum class Kind { kNull, kBool, kInteger, kNumber, kText, kList, kTable };

  /// Reads a text; throws BundleError, whose message says at which byte it is wrong.
  static Json parse(std::string_view text) {
    Parser parser{text};
    Json value = parser.value(0);
    parser.blank();
    if (parser.at != text.size()) parser.wrong("something follows");
    return value;
  }

  Kind kind() const { return kind_; }
  bool is_null() const { return kind_ == Kind::kNull; }
  bool is_table() const { return kind_ == Kind::kTable; }
  bool is_list() const { return kind_ == Kind::kList; }
  bool is_text() const { return kind_ == Kind::kText; }
  bool is_bool() const { return kind_ == Kind::kBool; }
  /// Whether it is a whole number of 64 bits that is written as one: 4, not 4.0.
  bool is_integer() const { return kind_ == Kind::kInteger; }
  bool is_number() const { return kind_ == Kind::kInteger || kind_ == Kind::kNumber; }
  bool truth() const { return integer_ != 0; }
  std::int64_t integer() const { return integer_; }
  double number() const { return kind_ == Kind::kInteger ? static_cast<double>(integer_) : number_; }
  const std::string& text() const { return text_; }
  const std::vector<Json>& list() const { return items_; }

  /// The value of a key of a table, or nullptr.
  const Json* find(std::string_view key) const {
    for (std::size_t i = keys_.size(); i-- > 0;) {
      if (keys_[i] == key) return &items_[i];
    }
    return nullptr;
  }
  /// Keys of a table, in the order of the text; the value of `keys()[i]` is `list()[i]`.
  const std::vector<std::string>& keys() const { return keys_; }

 private:
  static constexpr int kDeepest = 64;

  struct Parser {
    std::string_view text;
    std::size_t at = 0;

    [[noreturn]] void wrong(const char* what) const {
      throw BundleError("The JSON is wrong at byte " + std::to_string(at) + ": " + what + ".", kCopyAgain);
    }
    char peek() const { return at < text.size() ? text[at] : '\0'; }
    void blank() {
      while (at < text.size() && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r')) ++at;
    }
    bool take(std::string_view word) {
      if (text.substr(at, word.size()) != word) return false;
      at += word.size();
      return true;
    }

    Json value(int depth) {
      if (depth > kDeepest) wrong("it is nested too deep");
      blank();
      Json made;
      switch (peek()) {
        case '{': {
          made.kind_ = Kind::kTable;
          ++at, blank();
          if (take("}")) return made;
          do {
            blank();
            if (peek() != '"') wrong("a key is missing");
            made.keys_.push_back(string());
            blank();
            if (!take(":")) wrong("a colon is missing");
            made.items_.push_back(value(depth + 1));
            blank();
          } while (take(","));
          if (!take("}")) wrong("a table does not end");
          return made;
        }
        case '[': {
          made.kind_ = Kind::kList;
          ++at, blank();
          if (take("]")) return made;
          do {
            made.items_.push_back(value(depth + 1));
            blank();
          } while (take(","));
          if (!take("]")) wrong("a list does not end");
          return made;
        }
        case '"':
          made.kind_ = Kind::kText;
          made.text_ = string();
          return made;
        default: break;
      }
      if (take("null")) return made;
      if (take("true") || take("false")) {
        made.kind_ = Kind::kBool;
        made.integer_ = text[at - 2] == 'u';
        return made;
      }
      return number();
    }

    Json number() {
      const std::size_t begin = at;
      const auto digits = [&] {
        const std::size_t first = at;
        while (peek() >= '0' && peek() <= '9') ++at;
        if (at == first) wrong("a value is missing");
      };
      take("-");
      if (!take("0")) digits();
      bool whole = true;
      if (take(".")) whole = false, digits();
      if (peek() == 'e' || peek() == 'E') {
        whole = false, ++at;
        if (!take("+")) take("-");
        digits();
      }
      const std::string_view said = text.substr(begin, at - begin);
      Json made;
      if (whole && integer_of(said, made.integer_)) {
        made.kind_ = Kind::kInteger;
        return made;
      }
      made.kind_ = Kind::kNumber;
      std::istringstream stream{std::string(said)};
      stream.imbue(std::locale::classic());  // strtod would follow the program's locale
      stream >> made.number_;
      return made;
    }

    static bool integer_of(std::string_view said, std::int64_t& made) {
      const bool negative = said[0] == '-';
      std::uint64_t value = 0;
      const std::uint64_t most =
          static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) + (negative ? 1 : 0);
      for (const char digit : said.substr(negative ? 1 : 0)) {
        const auto next = static_cast<std::uint64_t>(digit - '0');
        if (value > (most - next) / 10) return false;
        value = value * 10 + next;
      }
      made = static_cast<std::int64_t>(negative ? 0 - value : value);
      return true;
    }

    std::string string() {
      std::string made;
      ++at;
      while (true) {
        if (at >= text.size()) wrong("a text does not end");
        const auto byte = static_cast<unsigned char>(text[at]);
        if (byte == '"') return ++at, made;
        if (byte < 0x20) wrong("a text holds a control character");
        if (byte == '\\') {
          escape(made);
        } else {
          character(made, byte);
        }
      }
    }

    void character(std::string& made, unsigned char byte) {
      const int more = byte < 0x80 ? 0 : byte >= 0xc2 && byte < 0xe0 ? 1 : (byte & 0xf0) == 0xe0 ? 2
                       : byte >= 0xf0 && byte < 0xf5                  ? 3
                                                                      : -1;
      if (more < 0 || at + static_cast<std::size_t>(more) >= text.size()) wrong("it is not UTF-8");
      std::uint32_t code = more == 0 ? byte : byte & (0x3fu >> more);
      for (int i = 1; i <= more; ++i) {
        const auto next = static_cast<unsigned char>(text[at + static_cast<std::size_t>(i)]);
        if ((next & 0xc0) != 0x80) wrong("it is not UTF-8");
        code = code << 6 | (next & 0x3f);
      }
      const bool unfit = (more == 2 && code < 0x800) || (more == 3 && code < 0x10000) || code > 0x10ffff ||
                         (code >= 0xd800 && code < 0xe000);
      if (unfit) wrong("it is not UTF-8");
      made.append(text.substr(at, static_cast<std::size_t>(more) + 1));
      at += static_cast<std::size_t>(more) + 1;
    }

    void escape(std::string& made) {
      ++at;
      const char letter = peek();
      ++at;
      switch (letter) {
        case '"': case '\\': case '/': made += letter; return;
        case 'b': made += '\b'; return;
        case 'f': made += '\f'; return;
        case 'n': made += '\n'; return;
        case 'r': made += '\r'; return;
        case 't': made += '\t'; return;
        case 'u': break;
        default: wrong("a text holds an unknown escape");
      }
      std::uint32_t code = hex();
      if (code >= 0xd800 && code < 0xdc00 && text.substr(at, 2) == "\\u") {
        const std::size_t before = at;
        at += 2;
        const std::uint32_t low = hex();
        if (low >= 0xdc00 && low < 0xe000) {
          code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        } else {
          at = before;
        }
      }
      if (code >= 0xd800 && code < 0xe000) wrong("a text holds half of a character (a lone surrogate)");
      if (code < 0x80) {
        made += static_cast<char>(code);
        return;
      }
      const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
      made += static_cast<char>((0xff00u >> (more + 1) & 0xff) | code >> (6 * more));
      for (int i = more - 1; i >= 0; --i) made += static_cast<char>(0x80 | (code >> (6 * i) & 0x3f));
    }

    std::uint32_t hex() {
      std::uint32_t code = 0;
      for (int i = 0; i < 4; ++i, ++at) {
        const char digit = peek();
        const int value = digit >= '0' && digit <= '9'   ? digit - '0'
                          : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                          : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                         : -1;
        if (value < 0) wrong("a text holds an unknown escape");
        code = code << 4 | static_cast<std::uint32_t>(value);
      }
      return code;
    }
  };

  Kind kind_ = Kind::kNull;
  std::int64_t integer_ = 0;
  double number_ = 0.0;
  std::string text_;
  std::vector<std::string> keys_;
  std::vector<Json> items_;
};

}  // namespace splite
