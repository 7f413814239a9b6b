/* CRC64NVME by carry-less multiplication of two lanes at once.

   awscrt does it with one lane, or with four where the processor has AVX-512; between those, as most of AMD's and Intel's smaller
   ones are, this is twice as fast. Owns its constants. Does not know what is summed.
   Spec: NVM Express NVM Command Set, "64b CRC" (reflected, polynomial 0xAD93D23594C93659, begun and ended with all ones); folding as in
   Intel's "Fast CRC Computation for Generic Polynomials Using PCLMULQDQ Instruction". Built where RECALL_COMPILE is set (setup.py);
   there, and on other processors, importing it fails, and awscrt does the same. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <stdint.h>
#include <string.h>
#define FOR_LANES __attribute__((target("vpclmulqdq,pclmul,avx2")))

enum { LANE = 16, PAIR = 32, STRIDE = 4 * PAIR, ALONE_BYTES = 32 << 10 };

/* Bit 63 of a word is the coefficient of x^0: the polynomial reflected. */
static const uint64_t POLYNOMIAL = 0x9A6C9329AC4BC9B5;
static uint64_t table[256];
static uint64_t over_lane[2], over_pair[2], over_stride[2]; /* multiply a lane's two words by, to move it so far ahead */

static uint64_t times_x(uint64_t value, int count) {
    while (count--) value = (value >> 1) ^ (value & 1 ? POLYNOMIAL : 0);
    return value;
}

static void prepare_fold(uint64_t by[2], int bytes) {
    /* One less, as a product of reflected words stands one bit too low; the first word stands 64 bits above the second. */
    by[0] = times_x(1ull << 63, 8 * bytes + 63);
    by[1] = times_x(1ull << 63, 8 * bytes - 1);
}

static void prepare(void) {
    for (int i = 0; i < 256; i++) table[i] = times_x((uint64_t)i, 8);
    prepare_fold(over_lane, LANE);
    prepare_fold(over_pair, PAIR);
    prepare_fold(over_stride, STRIDE);
}

static uint64_t by_bytes(uint64_t state, const uint8_t *from, size_t size) {
    while (size--) state = (state >> 8) ^ table[(uint8_t)(state ^ *from++)];
    return state;
}

FOR_LANES static inline __m128i fold(__m128i lane, const uint64_t by[2], __m128i next) {
    const __m128i k = _mm_loadu_si128((const __m128i *)by);
    return _mm_xor_si128(next, _mm_xor_si128(_mm_clmulepi64_si128(lane, k, 0x00), _mm_clmulepi64_si128(lane, k, 0x11)));
}

FOR_LANES static inline __m256i fold_pair(__m256i pair, __m256i k, __m256i next) {
    const __m256i first = _mm256_clmulepi64_epi128(pair, k, 0x00), second = _mm256_clmulepi64_epi128(pair, k, 0x11);
    return _mm256_xor_si256(next, _mm256_xor_si256(first, second));
}

#define LOAD(at) _mm256_loadu_si256((const __m256i *)(from + (at)))

FOR_LANES static uint64_t by_lanes(uint64_t state, const uint8_t *from, size_t size) {
    if (size < LANE) return by_bytes(state, from, size);
    __m128i lane;
    if (size >= STRIDE) {
        __m256i k = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)over_stride));
        __m256i a = _mm256_xor_si256(LOAD(0), _mm256_set_epi64x(0, 0, 0, (long long)state)), b = LOAD(32), c = LOAD(64), d = LOAD(96);
        for (from += STRIDE, size -= STRIDE; size >= STRIDE; from += STRIDE, size -= STRIDE) {
            a = fold_pair(a, k, LOAD(0)), b = fold_pair(b, k, LOAD(32)), c = fold_pair(c, k, LOAD(64)), d = fold_pair(d, k, LOAD(96));
        }
        k = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)over_pair));
        a = fold_pair(fold_pair(fold_pair(a, k, b), k, c), k, d);
        lane = fold(_mm256_castsi256_si128(a), over_lane, _mm256_extracti128_si256(a, 1));
    } else {
        lane = _mm_xor_si128(_mm_loadu_si128((const __m128i *)from), _mm_set_epi64x(0, (long long)state));
        from += LANE, size -= LANE;
    }
    for (; size >= LANE; from += LANE, size -= LANE) lane = fold(lane, over_lane, _mm_loadu_si128((const __m128i *)from));
    uint8_t rest[LANE];
    _mm_storeu_si128((__m128i *)rest, lane);
    return by_bytes(by_bytes(0, rest, LANE), from, size);
}

static PyObject *crc64nvme(PyObject *Py_UNUSED(module), PyObject *const *values, Py_ssize_t count) {
    if (count != 1 && count != 2) return PyErr_Format(PyExc_TypeError, "takes a buffer, and the sum of what is before it");
    uint64_t state = ~0ull;
    if (count == 2) {
        state = ~PyLong_AsUnsignedLongLong(values[1]);
        if (PyErr_Occurred()) return NULL;
    }
    Py_buffer view;
    if (PyObject_GetBuffer(values[0], &view, PyBUF_SIMPLE)) return NULL;
    if (view.len < ALONE_BYTES) {
        state = by_lanes(state, view.buf, (size_t)view.len);
    } else {
        Py_BEGIN_ALLOW_THREADS
        state = by_lanes(state, view.buf, (size_t)view.len);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&view);
    return PyLong_FromUnsignedLongLong(~state);
}

static int is_usable(void) {
    unsigned a, b, c, d;
    if (!__builtin_cpu_supports("avx2") || __builtin_cpu_supports("avx512f")) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & (1u << 10)); /* VPCLMULQDQ */
}

static PyMethodDef functions[] = {
    {"crc64nvme", (PyCFunction)(void (*)(void))crc64nvme, METH_FASTCALL, "The sum of a buffer, going on from that of what is before it."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tiering._crc64", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__crc64(void) {
    if (!is_usable()) return PyErr_Format(PyExc_ImportError, "awscrt is as fast on this processor");
    prepare();
    return PyModule_Create(&module);
}
#else
PyMODINIT_FUNC PyInit__crc64(void) { return PyErr_Format(PyExc_ImportError, "written for x86-64 only"); }
#endif
