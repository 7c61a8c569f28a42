/* Counts executed instructions between marks: a plugin of qemu-aarch64 7.2 to 8.2 (version 1 of its interface).
 *
 *     cc -O2 -shared -fPIC -o executed.so executed.c
 *     qemu-aarch64 -plugin executed.so,out=FILE PROGRAM
 *
 * The program sets a mark by getpriority(MARK, any number), which the kernel refuses and no program asks otherwise.
 * Each mark writes one line of JSON to FILE: what was executed since the mark before it. A block that a signal leaves
 * early counts as a whole.
 *
 * qemu's header comes with few distributions. The part of the interface that is needed is declared here; see "QEMU TCG
 * Plugins" in qemu's documentation.
 *
 * SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-or-later
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define GETPRIORITY 141 /* of Linux on aarch64 */
#define MARK 0x5350

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum { ADD_U64 = 0 };
typedef void on_translation(plugin_id, struct qemu_plugin_tb *);
typedef void on_syscall(plugin_id, unsigned vcpu, int64_t number, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, on_translation *);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int, void *, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall *);

EXPORT int qemu_plugin_version = 1;

/* An instruction is of a kind where (word & mask) == value; encodings are those of the Arm Architecture Reference Manual
 * for A-profile, section "Advanced SIMD". `all` is every instruction. */
static struct {
  const char *name;
  struct {
    uint32_t mask, value;
  } encodings[4];
  uint64_t count, before;
} kinds[] = {
    {"all", {{0, 0}}, 0, 0},
    {"dot_product", /* SDOT, UDOT, USDOT, SUDOT: vector and element */
     {{0x9FE0FC00, 0x0E809400}, {0x9FC0F400, 0x0F80E000}, {0xBFE0FC00, 0x0E809C00}, {0xBF40F400, 0x0F00F000}}, 0, 0},
    {"matrix_product", {{0xDFE0FC00, 0x4E80A400}, {0xFFE0FC00, 0x4E80AC00}}, 0, 0}, /* SMMLA, UMMLA, USMMLA */
    {"multiply_long", /* SMLAL, UMLAL, SMULL, UMULL of 8 and 16 bits: vector and element */
     {{0x9F20FC00, 0x0E208000}, {0x9F00F400, 0x0F002000}, {0x9F20FC00, 0x0E20C000}, {0x9F00F400, 0x0F00A000}}, 0, 0},
    {"multiply_float32", {{0xBFE0FC00, 0x0E20CC00}, {0xBFC0F400, 0x0F801000}}, 0, 0}, /* FMLA: vector and element */
    {"multiply_float16", {{0xBFE0FC00, 0x0E400C00}, {0xBFC0F400, 0x0F001000}}, 0, 0},
};
enum { KINDS = sizeof kinds / sizeof *kinds, ENCODINGS = 4 };
static FILE *out;

static int is(size_t kind, uint32_t word) {
  for (size_t i = 0; i < ENCODINGS; i++) {
    uint32_t mask = kinds[kind].encodings[i].mask;
    if ((mask || kind == 0) && (word & mask) == kinds[kind].encodings[i].value) return 1;
  }
  return 0;
}

static void translated(plugin_id id, struct qemu_plugin_tb *block) {
  uint64_t found[KINDS] = {0};
  size_t length = qemu_plugin_tb_n_insns(block);
  (void)id;
  for (size_t i = 0; i < length; i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    for (size_t kind = 0; kind < KINDS; kind++) found[kind] += is(kind, word);
  }
  for (size_t kind = 0; kind < KINDS; kind++)
    if (found[kind]) qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &kinds[kind].count, found[kind]);
}

static void called(plugin_id id, unsigned vcpu, int64_t number, uint64_t which, uint64_t who, uint64_t c, uint64_t d,
                   uint64_t e, uint64_t f, uint64_t g, uint64_t h) {
  (void)id, (void)vcpu, (void)who, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number != GETPRIORITY || (uint32_t)which != MARK) return;
  for (size_t kind = 0; kind < KINDS; kind++) {
    fprintf(out, "%s\"%s\": %" PRIu64, kind ? ", " : "{", kinds[kind].name, kinds[kind].count - kinds[kind].before);
    kinds[kind].before = kinds[kind].count;
  }
  fputs("}\n", out);
  fflush(out);
}

EXPORT int qemu_plugin_install(plugin_id id, const void *machine, int count, char **arguments) {
  (void)machine;
  if (count != 1 || strncmp(arguments[0], "out=", 4)) {
    fputs("executed: give it one argument, out=FILE\n", stderr);
    return -1;
  }
  out = fopen(arguments[0] + 4, "w");
  if (!out) {
    perror(arguments[0] + 4);
    return -1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}
