/* HMAC-SHA256 of short texts, by the processor's own instructions for SHA-256.

   A signature is four hashes of a few hundred bytes. OpenSSL computes them as fast, but reaching it from Python takes eight calls and
   as many objects, five times as long as the hashes themselves.
   Owns the two keyed states of HMAC. Does not know what is signed: s3api/sigv4.py decides.
   Spec: RFC 2104, FIPS 180-4. Built where RECALL_COMPILE is set (setup.py); there, and on processors without the instructions,
   importing it fails, and hashlib does the same. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#define FOR_SHA __attribute__((target("sha,sse4.1,ssse3")))

enum { BLOCK = 64, DIGEST = 32, HEX = 64 };

static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
    0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
    0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
    0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
    0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
    0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};
static const uint32_t FIRST[8] = {
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

typedef struct {
    uint32_t words[8];
    uint64_t bytes; /* taken so far */
    uint8_t rest[BLOCK];
} Hash;

/* -- SHA-256 ----------------------------------------------------------------------------------------------------------- */

/* The instructions want the state as two vectors, of which the first named word is the highest. */
FOR_SHA static void blocks(uint32_t s[8], const uint8_t *from, size_t count) {
    const __m128i big_endian = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    __m128i abef = _mm_set_epi32((int)s[0], (int)s[1], (int)s[4], (int)s[5]);
    __m128i cdgh = _mm_set_epi32((int)s[2], (int)s[3], (int)s[6], (int)s[7]);
    for (; count; count--, from += BLOCK) {
        const __m128i abef_before = abef, cdgh_before = cdgh;
        __m128i w[4];
        for (int i = 0; i < 4; i++) w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(from + 16 * i)), big_endian);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) { /* four rounds each */
            const __m128i wk = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)(K + 4 * i)));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk); /* is the new abef: the two change places twice */
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0E));
            if (i < 12) {
                const __m128i w1 = w[(i + 1) & 3], w2 = w[(i + 2) & 3], w3 = w[(i + 3) & 3];
                const __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w1), _mm_alignr_epi8(w3, w2, 4));
                w[i & 3] = _mm_sha256msg2_epu32(sum, w3);
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    s[0] = (uint32_t)_mm_extract_epi32(abef, 3), s[1] = (uint32_t)_mm_extract_epi32(abef, 2);
    s[4] = (uint32_t)_mm_extract_epi32(abef, 1), s[5] = (uint32_t)_mm_extract_epi32(abef, 0);
    s[2] = (uint32_t)_mm_extract_epi32(cdgh, 3), s[3] = (uint32_t)_mm_extract_epi32(cdgh, 2);
    s[6] = (uint32_t)_mm_extract_epi32(cdgh, 1), s[7] = (uint32_t)_mm_extract_epi32(cdgh, 0);
}

static void take(Hash *hash, const uint8_t *from, size_t size) {
    size_t held = hash->bytes % BLOCK;
    hash->bytes += size;
    if (held) {
        size_t room = BLOCK - held, count = size < room ? size : room;
        memcpy(hash->rest + held, from, count);
        if (count < room) return;
        blocks(hash->words, hash->rest, 1);
        from += count, size -= count;
    }
    blocks(hash->words, from, size / BLOCK);
    memcpy(hash->rest, from + size / BLOCK * BLOCK, size % BLOCK);
}

static void end(Hash *hash, uint8_t digest[DIGEST]) {
    const uint64_t bits = __builtin_bswap64(hash->bytes * 8);
    size_t held = hash->bytes % BLOCK;
    hash->rest[held++] = 0x80;
    if (held > BLOCK - sizeof bits) {
        memset(hash->rest + held, 0, BLOCK - held);
        blocks(hash->words, hash->rest, 1);
        held = 0;
    }
    memset(hash->rest + held, 0, BLOCK - sizeof bits - held);
    memcpy(hash->rest + BLOCK - sizeof bits, &bits, sizeof bits);
    blocks(hash->words, hash->rest, 1);
    for (int i = 0; i < 8; i++) {
        const uint32_t word = __builtin_bswap32(hash->words[i]);
        memcpy(digest + 4 * i, &word, sizeof word);
    }
}

static void hex(const uint8_t digest[DIGEST], uint8_t text[HEX]) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < DIGEST; i++) text[2 * i] = (uint8_t)digits[digest[i] >> 4], text[2 * i + 1] = (uint8_t)digits[digest[i] & 15];
}

/* -- a key ------------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Hash inner, outer; /* each has taken one block, of which nothing but the words is kept */
} Key;

static void prime(Hash *hash, const uint8_t block[BLOCK], uint8_t mask) {
    uint8_t masked[BLOCK];
    for (int i = 0; i < BLOCK; i++) masked[i] = block[i] ^ mask;
    memcpy(hash->words, FIRST, sizeof FIRST);
    blocks(hash->words, masked, 1);
    hash->bytes = BLOCK;
}

static PyObject *key_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    const char *block;
    Py_ssize_t size;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) return PyErr_Format(PyExc_TypeError, "no keywords are taken");
    if (!PyArg_ParseTuple(args, "y#", &block, &size)) return NULL;
    if (size != BLOCK) return PyErr_Format(PyExc_ValueError, "a key is a block of %d bytes", BLOCK);
    Key *key = (Key *)type->tp_alloc(type, 0);
    if (key == NULL) return NULL;
    prime(&key->inner, (const uint8_t *)block, 0x36);
    prime(&key->outer, (const uint8_t *)block, 0x5C);
    return (PyObject *)key;
}

static void key_dealloc(Key *key) {
    PyTypeObject *type = Py_TYPE(key);
    type->tp_free(key);
    Py_DECREF(type);
}

static PyObject *signature(const Key *key, Hash *inner) {
    uint8_t digest[DIGEST];
    Hash outer = key->outer;
    PyObject *text = PyUnicode_New(HEX, 127);
    if (text == NULL) return NULL;
    end(inner, digest);
    take(&outer, digest, DIGEST);
    end(&outer, digest);
    hex(digest, PyUnicode_1BYTE_DATA(text));
    return text;
}

static int are_bytes(PyObject *const *values, Py_ssize_t count, Py_ssize_t wanted) {
    int good = count == wanted;
    for (Py_ssize_t i = 0; good && i < count; i++) good = PyBytes_Check(values[i]);
    if (!good) PyErr_Format(PyExc_TypeError, "takes bytes, %zd of them", wanted);
    return good;
}

static void take_bytes(Hash *hash, PyObject *bytes) {
    take(hash, (const uint8_t *)PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
}

static PyObject *key_sign(Key *key, PyObject *text) {
    if (!are_bytes(&text, 1, 1)) return NULL;
    Hash inner = key->inner;
    take_bytes(&inner, text);
    return signature(key, &inner);
}

static PyObject *key_sign_hash(Key *key, PyObject *const *values, Py_ssize_t count) {
    if (!are_bytes(values, count, 2)) return NULL;
    uint8_t digest[DIGEST], text[HEX];
    Hash hashed = {.bytes = 0}, inner = key->inner;
    memcpy(hashed.words, FIRST, sizeof FIRST);
    take_bytes(&hashed, values[1]);
    end(&hashed, digest);
    hex(digest, text);
    take_bytes(&inner, values[0]);
    take(&inner, text, HEX);
    return signature(key, &inner);
}

/* -- the module -------------------------------------------------------------------------------------------------------- */

static PyMethodDef key_methods[] = {
    {"sign", (PyCFunction)key_sign, METH_O, "Lower-case hex HMAC-SHA256 of a text."},
    {"sign_hash", (PyCFunction)(void (*)(void))key_sign_hash, METH_FASTCALL,
     "As `sign` of a text followed by the lower-case hex SHA-256 of another."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot key_slots[] = {
    {Py_tp_doc, "A key of HMAC-SHA256, filled up with zeros to a block of 64 bytes."},
    {Py_tp_new, key_new},
    {Py_tp_dealloc, key_dealloc},
    {Py_tp_methods, key_methods},
    {0, NULL},
};

static PyType_Spec key_spec = {"s3api._sha256.Key", sizeof(Key), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, key_slots};

static int is_usable(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_SSSE3) || !(c & bit_SSE4_1)) return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & (1u << 29)); /* SHA extensions */
}

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "s3api._sha256", NULL, -1, NULL, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__sha256(void) {
    if (!is_usable()) return PyErr_Format(PyExc_ImportError, "this processor has no instructions for SHA-256");
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    PyObject *type = PyType_FromSpec(&key_spec);
    if (type == NULL || PyModule_AddObject(made, "Key", type)) {
        Py_XDECREF(type);
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
#else
PyMODINIT_FUNC PyInit__sha256(void) { return PyErr_Format(PyExc_ImportError, "written for x86-64 only"); }
#endif
