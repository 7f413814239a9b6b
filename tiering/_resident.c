/* Reads what is in the page cache, straight into the bytes that are returned.

   os.preadv wants a buffer to write to, which is filled with zeros before and copied to bytes after; and lets other threads run around a
   call that never waits. Owns nothing. Does not know what the bytes are: tiering/flash.py does.
   Spec: preadv2(2), RWF_NOWAIT. Built where RECALL_COMPILE is set (setup.py); without it os.preadv does the same. */

#define _GNU_SOURCE
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <sys/uio.h>

static PyObject *resident_bytes(PyObject *Py_UNUSED(module), PyObject *const *values, Py_ssize_t count) {
    if (count != 3) return PyErr_Format(PyExc_TypeError, "takes a descriptor, an offset and a length");
    long fd = PyLong_AsLong(values[0]);
    long long offset = PyLong_AsLongLong(values[1]);
    Py_ssize_t length = PyLong_AsSsize_t(values[2]);
    if (PyErr_Occurred()) return NULL;
    PyObject *data = PyBytes_FromStringAndSize(NULL, length); /* a negative one is refused there */
    if (data == NULL) return NULL;
    struct iovec into = {PyBytes_AS_STRING(data), (size_t)length};
    if (preadv2((int)fd, &into, 1, (off_t)offset, RWF_NOWAIT) == length) return data;
    Py_DECREF(data);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"resident_bytes", (PyCFunction)(void (*)(void))resident_bytes, METH_FASTCALL,
     "`length` bytes of a file from `offset` on; None where not all of them are in memory, or the file system cannot tell."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "tiering._resident", NULL, -1, functions, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__resident(void) { return PyModule_Create(&module); }
