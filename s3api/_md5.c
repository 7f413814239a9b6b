/* MD5 of several contents side by side: the sixteen lanes of a vector each take a block of another one.

   MD5 cannot be sped up within one content, as each step waits for the last; a vector instruction takes that step for sixteen.
   Owns its states. Does not know threads or loops: s3api/md5.py decides what is computed together.
   Spec: RFC 1321. Built where RECALL_COMPILE is set (setup.py); without it hashlib does the same, one by one. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

enum { LANES = 16, BLOCK = 64, WORDS = 16, INLINE_BYTES = 2048 };

typedef uint32_t vec __attribute__((vector_size(4 * LANES)));

/* -- one block, of whatever type `w`, `a` to `d` have ------------------------------------------------------------------ */

#define F(x, y, z) ((z) ^ ((x) & ((y) ^ (z))))
#define G(x, y, z) (((x) & (z)) + ((y) & ~(z))) /* a sum, as no bit is in both: the newest, x, is waited for less */
#define H(x, y, z) ((x) ^ (y) ^ (z))
#define I(x, y, z) ((y) ^ ((x) | ~(z)))
#define STEP(f, a, b, c, d, i, k, s)                                                                                          \
    do {                                                                                                                      \
        a += w[i] + (uint32_t)k;                                                                                              \
        a += f(b, c, d);                                                                                                      \
        a = ((a << s) | (a >> (32 - s))) + b;                                                                                 \
    } while (0)
#define FOUR(f, i0, k0, s0, i1, k1, s1, i2, k2, s2, i3, k3, s3)                                                               \
    STEP(f, a, b, c, d, i0, k0, s0);                                                                                          \
    STEP(f, d, a, b, c, i1, k1, s1);                                                                                          \
    STEP(f, c, d, a, b, i2, k2, s2);                                                                                          \
    STEP(f, b, c, d, a, i3, k3, s3)
#define TRANSFORM                                                                                                             \
    FOUR(F, 0, 0xd76aa478, 7, 1, 0xe8c7b756, 12, 2, 0x242070db, 17, 3, 0xc1bdceee, 22);                                       \
    FOUR(F, 4, 0xf57c0faf, 7, 5, 0x4787c62a, 12, 6, 0xa8304613, 17, 7, 0xfd469501, 22);                                       \
    FOUR(F, 8, 0x698098d8, 7, 9, 0x8b44f7af, 12, 10, 0xffff5bb1, 17, 11, 0x895cd7be, 22);                                     \
    FOUR(F, 12, 0x6b901122, 7, 13, 0xfd987193, 12, 14, 0xa679438e, 17, 15, 0x49b40821, 22);                                   \
    FOUR(G, 1, 0xf61e2562, 5, 6, 0xc040b340, 9, 11, 0x265e5a51, 14, 0, 0xe9b6c7aa, 20);                                       \
    FOUR(G, 5, 0xd62f105d, 5, 10, 0x02441453, 9, 15, 0xd8a1e681, 14, 4, 0xe7d3fbc8, 20);                                      \
    FOUR(G, 9, 0x21e1cde6, 5, 14, 0xc33707d6, 9, 3, 0xf4d50d87, 14, 8, 0x455a14ed, 20);                                       \
    FOUR(G, 13, 0xa9e3e905, 5, 2, 0xfcefa3f8, 9, 7, 0x676f02d9, 14, 12, 0x8d2a4c8a, 20);                                      \
    FOUR(H, 5, 0xfffa3942, 4, 8, 0x8771f681, 11, 11, 0x6d9d6122, 16, 14, 0xfde5380c, 23);                                     \
    FOUR(H, 1, 0xa4beea44, 4, 4, 0x4bdecfa9, 11, 7, 0xf6bb4b60, 16, 10, 0xbebfbc70, 23);                                      \
    FOUR(H, 13, 0x289b7ec6, 4, 0, 0xeaa127fa, 11, 3, 0xd4ef3085, 16, 6, 0x04881d05, 23);                                      \
    FOUR(H, 9, 0xd9d4d039, 4, 12, 0xe6db99e5, 11, 15, 0x1fa27cf8, 16, 2, 0xc4ac5665, 23);                                     \
    FOUR(I, 0, 0xf4292244, 6, 7, 0x432aff97, 10, 14, 0xab9423a7, 15, 5, 0xfc93a039, 21);                                      \
    FOUR(I, 12, 0x655b59c3, 6, 3, 0x8f0ccc92, 10, 10, 0xffeff47d, 15, 1, 0x85845dd1, 21);                                     \
    FOUR(I, 8, 0x6fa87e4f, 6, 15, 0xfe2ce6e0, 10, 6, 0xa3014314, 15, 13, 0x4e0811a1, 21);                                     \
    FOUR(I, 4, 0xf7537e82, 6, 11, 0xbd3af235, 10, 2, 0x2ad7d2bb, 15, 9, 0xeb86d391, 21)

static void alone(uint32_t state[4], const uint8_t *from, size_t blocks) {
    for (; blocks; blocks--, from += BLOCK) {
        uint32_t w[WORDS], a = state[0], b = state[1], c = state[2], d = state[3];
        memcpy(w, from, BLOCK);
        TRANSFORM;
        state[0] += a, state[1] += b, state[2] += c, state[3] += d;
    }
}

/* -- a block of each lane: word i of all lanes becomes vector i -------------------------------------------------------- */

static inline __attribute__((always_inline)) void copied(vec w[WORDS], const uint8_t *const from[LANES], size_t at) {
    uint32_t words[WORDS][LANES] __attribute__((aligned(64)));
    for (int lane = 0; lane < LANES; lane++) {
        uint32_t block[WORDS];
        memcpy(block, from[lane] + at, BLOCK);
        for (int i = 0; i < WORDS; i++) words[i][lane] = block[i];
    }
    memcpy(w, words, sizeof words);
}

#if defined(__x86_64__) && defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE 1
#define PICK(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)

static inline __attribute__((always_inline)) void shuffled(vec w[WORDS], const uint8_t *const from[LANES], size_t at) {
    vec r[LANES], t[LANES];
    for (int i = 0; i < LANES; i++) memcpy(&r[i], from[i] + at, BLOCK);
    for (int i = 0; i < LANES; i += 2) { /* pairs of words of two lanes */
        t[i] = PICK(r[i], r[i + 1], 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
        t[i + 1] = PICK(r[i], r[i + 1], 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31);
    }
    for (int i = 0; i < LANES; i += 4) /* each quarter of r[i + j]: word j of that quarter, of four lanes */
        for (int j = 0; j < 2; j++) {
            vec x = t[i + j], y = t[i + 2 + j];
            r[i + 2 * j] = PICK(x, y, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29);
            r[i + 2 * j + 1] = PICK(x, y, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
        }
    for (int j = 0; j < 4; j++) { /* quarters of four vectors to their places */
        vec low = PICK(r[j], r[4 + j], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        vec high = PICK(r[j], r[4 + j], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
        vec low2 = PICK(r[8 + j], r[12 + j], 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
        vec high2 = PICK(r[8 + j], r[12 + j], 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
        w[j] = PICK(low, low2, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
        w[4 + j] = PICK(low, low2, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
        w[8 + j] = PICK(high, high2, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27);
        w[12 + j] = PICK(high, high2, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31);
    }
}
#endif
#endif

#define TOGETHER(name, target, load)                                                                                          \
    target static void name(vec state[4], const uint8_t *const from[LANES], size_t blocks) {                                  \
        for (size_t at = 0; at < blocks * BLOCK; at += BLOCK) {                                                               \
            vec w[WORDS], a = state[0], b = state[1], c = state[2], d = state[3];                                             \
            load(w, from, at);                                                                                                \
            TRANSFORM;                                                                                                        \
            state[0] += a, state[1] += b, state[2] += c, state[3] += d;                                                       \
        }                                                                                                                     \
    }

TOGETHER(any, , copied)
#ifdef __x86_64__
TOGETHER(avx2, __attribute__((target("avx2"))), copied)
#endif
#ifdef HAS_SHUFFLE
TOGETHER(avx512, __attribute__((target("avx512f"))), shuffled)
#endif

static void (*together)(vec[4], const uint8_t *const[LANES], size_t) = any;
static Py_ssize_t worth = 5; /* contents from which on all lanes cost less than one after the other */

static void choose(void) {
#ifdef __x86_64__
    if (__builtin_cpu_supports("avx2")) together = avx2, worth = 4;
#endif
#ifdef HAS_SHUFFLE
    if (__builtin_cpu_supports("avx512f")) together = avx512, worth = 3;
#endif
}

/* -- what Python sees -------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    uint32_t state[4];
    uint64_t length;
    uint8_t rest[BLOCK]; /* the last length % BLOCK bytes */
} Md5;

static PyObject *md5_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    if (PyTuple_GET_SIZE(args) || (keywords && PyDict_GET_SIZE(keywords))) {
        PyErr_SetString(PyExc_TypeError, "Md5 takes no arguments");
        return NULL;
    }
    Md5 *self = (Md5 *)type->tp_alloc(type, 0);
    if (self == NULL) return NULL;
    self->state[0] = 0x67452301, self->state[1] = 0xefcdab89, self->state[2] = 0x98badcfe, self->state[3] = 0x10325476;
    return (PyObject *)self;
}

/* Takes what is before and behind the whole blocks of `bytes`; tells where those begin and how many they are. */
static size_t edges(Md5 *self, const uint8_t *bytes, size_t size, size_t *blocks) {
    size_t held = self->length % BLOCK, start = 0;
    self->length += size;
    *blocks = 0;
    if (held) {
        start = size < BLOCK - held ? size : BLOCK - held;
        memcpy(self->rest + held, bytes, start);
        if (held + start < BLOCK) return start;
        alone(self->state, self->rest, 1);
    }
    *blocks = (size - start) / BLOCK;
    memcpy(self->rest, bytes + start + *blocks * BLOCK, (size - start) % BLOCK);
    return start;
}

static PyObject *md5_update(Md5 *self, PyObject *data) {
    Py_buffer view;
    size_t blocks;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) return NULL;
    const uint8_t *from = (const uint8_t *)view.buf;
    from += edges(self, from, (size_t)view.len, &blocks);
    if (blocks * BLOCK > INLINE_BYTES) {
        Py_BEGIN_ALLOW_THREADS
        alone(self->state, from, blocks);
        Py_END_ALLOW_THREADS
    } else
        alone(self->state, from, blocks);
    PyBuffer_Release(&view);
    Py_RETURN_NONE;
}

static PyObject *md5_begin(Md5 *self, PyObject *data) {
    Py_buffer view;
    size_t blocks;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)) return NULL;
    size_t start = edges(self, (const uint8_t *)view.buf, (size_t)view.len, &blocks);
    PyBuffer_Release(&view);
    return Py_BuildValue("nn", (Py_ssize_t)start, (Py_ssize_t)blocks);
}

static PyObject *md5_digest(Md5 *self, PyObject *Py_UNUSED(ignored)) {
    uint32_t state[4];
    uint8_t end[2 * BLOCK] = {0};
    size_t held = self->length % BLOCK, blocks = held < BLOCK - 8 ? 1 : 2;
    uint64_t bits = self->length * 8;
    memcpy(state, self->state, sizeof state);
    memcpy(end, self->rest, held);
    end[held] = 0x80;
    memcpy(end + blocks * BLOCK - 8, &bits, 8);
    alone(state, end, blocks);
    return PyBytes_FromStringAndSize((const char *)state, sizeof state);
}

static PyTypeObject *md5_type;

static PyObject *advance(PyObject *Py_UNUSED(module), PyObject *args) {
    PyObject *jobs;
    Py_ssize_t blocks, count, held = 0;
    Md5 *each[LANES];
    Py_buffer views[LANES];
    const uint8_t *from[LANES];
    if (!PyArg_ParseTuple(args, "O!n", &PyList_Type, &jobs, &blocks)) return NULL;
    count = PyList_GET_SIZE(jobs);
    if (count < 1 || count > LANES || blocks < 0) {
        PyErr_SetString(PyExc_ValueError, "one to sixteen contents, and a number of blocks");
        return NULL;
    }
    for (; held < count; held++) {
        PyObject *data;
        Py_ssize_t start;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(jobs, held), "O!On", md5_type, &each[held], &data, &start)) break;
        if (PyObject_GetBuffer(data, &views[held], PyBUF_SIMPLE)) break;
        if (start < 0 || start > views[held].len || blocks > (views[held].len - start) / BLOCK) {
            PyBuffer_Release(&views[held]);
            PyErr_SetString(PyExc_ValueError, "more blocks than there are");
            break;
        }
        from[held] = (const uint8_t *)views[held].buf + start;
    }
    if (held == count) {
        Py_BEGIN_ALLOW_THREADS
        if (count < worth)
            for (Py_ssize_t i = 0; i < count; i++) alone(each[i]->state, from[i], (size_t)blocks);
        else {
            vec state[4];
            for (Py_ssize_t lane = 0; lane < LANES; lane++) {
                Py_ssize_t i = lane < count ? lane : 0; /* idle lanes do the first one's work again */
                from[lane] = from[i];
                for (int word = 0; word < 4; word++) state[word][lane] = each[i]->state[word];
            }
            together(state, from, (size_t)blocks);
            for (Py_ssize_t i = 0; i < count; i++)
                for (int word = 0; word < 4; word++) each[i]->state[word] = state[word][i];
        }
        Py_END_ALLOW_THREADS
    }
    for (Py_ssize_t i = 0; i < held; i++) PyBuffer_Release(&views[i]);
    if (held < count) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef md5_methods[] = {
    {"update", (PyCFunction)md5_update, METH_O, "Takes bytes."},
    {"digest", (PyCFunction)md5_digest, METH_NOARGS, "The sixteen bytes of what was taken so far."},
    {"begin", (PyCFunction)md5_begin, METH_O,
     "Takes bytes but for their whole blocks: where those begin and how many they are, for `advance`."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot md5_slots[] = {
    {Py_tp_doc, "MD5 of one content, as hashlib has it."},
    {Py_tp_new, md5_new},
    {Py_tp_methods, md5_methods},
    {0, NULL},
};

static PyType_Spec md5_spec = {"s3api._md5.Md5", sizeof(Md5), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE, md5_slots};

static PyMethodDef functions[] = {
    {"advance", advance, METH_VARARGS,
     "Takes `blocks` blocks of 64 bytes of each of up to sixteen (Md5, buffer, start); each Md5 once, in no other thread."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "s3api._md5", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__md5(void) {
    PyObject *made = PyModule_Create(&module);
    if (made == NULL) return NULL;
    choose();
    md5_type = (PyTypeObject *)PyType_FromSpec(&md5_spec);
    if (md5_type == NULL || PyModule_AddObjectRef(made, "Md5", (PyObject *)md5_type) ||
        PyModule_AddIntConstant(made, "LANES", LANES)) {
        Py_DECREF(made);
        return NULL;
    }
    return made;
}
