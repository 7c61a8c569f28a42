// The one translation unit that compiles stb_image.
// SPDX-License-Identifier: Apache-2.0
#define STB_IMAGE_IMPLEMENTATION
#define STBI_NO_PSD
#define STBI_NO_GIF
#define STBI_NO_HDR
#define STBI_NO_PIC
#include "stb_image.h"
