/* nullcuda.c - a CUDA device that has memory but no processors.
 *
 * Preloaded in front of the CUDA build of PyTorch, this defines the CUDA
 * runtime, driver, cuBLAS, cuBLASLt and NCCL entry points that torch calls.
 * Device memory is accounted exactly and backed by lazily committed anonymous
 * pages (so copies and memsets are real); kernels are not run.  PyTorch's own
 * code - dispatcher, autograd, the CUDA caching allocator - is the stock one.
 *
 * Environment (sizes take K/M/G/T suffixes):
 *   NULLCUDA_DEVICES  number of devices                       (1, at most 16)
 *   NULLCUDA_MEMORY   bytes per device                        (40326M, an A100-40GB)
 *   NULLCUDA_CONTEXT  bytes a device's context takes          (0)
 *   NULLCUDA_OTHER    bytes that "other processes" hold       (0)
 *   NULLCUDA_NAME     device name                             (NULL A100-SXM4-40GB)
 *   NULLCUDA_CC       compute capability                      (8.0)
 *   NULLCUDA_SMS      multiprocessors                         (108)
 *   NULLCUDA_COPY     0: no data is moved, reads give zeros   (1)
 *   NULLCUDA_TRACE    1: allocator-level calls to stderr; 2: also stubs (0)
 */
#define _GNU_SOURCE
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAXDEV 16
#define MiB ((size_t)1 << 20)
#define PAGE 4096ul
#define GRAN (2 * MiB)                       /* physical granularity of the device */
#define DEV_BASE 0x200000000000ul            /* device d owns 1 TiB at DEV_BASE + d TiB */
#define RSV_BASE 0x300000000000ul            /* cuMemAddressReserve'd ranges */
#define WINDOW ((size_t)1 << 40)
#define UP(n, g) (((n) + (g) - 1) / (g) * (g))
#define HIDDEN __attribute__((visibility("hidden")))
typedef enum cudaMemcpyKind kind_t;

static int ndev = 1, installed = 1, cc_major = 8, cc_minor = 0, sms = 108, tracing, copying = 1;
static size_t total = 40326 * MiB, context_bytes, other_bytes;
static char devname[256] = "NULL A100-SXM4-40GB";
static struct { size_t used, peak; long mallocs, frees, fails; int active; } dev[MAXDEV];
static int physical[MAXDEV];                 /* of a device number, as CUDA_VISIBLE_DEVICES has it */
static long launches;
static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static __thread int cur;                     /* current device of this thread */
static __thread cudaError_t last = cudaSuccess;

static size_t size_env(const char *name, size_t dflt)
{
    const char *s = getenv(name);
    char *end;
    double v;
    if (!s || !*s) return dflt;
    v = strtod(s, &end);
    switch (*end | 32) { case 't': v *= 1024; case 'g': v *= 1024; case 'm': v *= 1024; case 'k': v *= 1024; }
    return (size_t)v;
}

/* Runs when the library is loaded; a process forked before CUDA is used may call it again to
   have another environment count. */
__attribute__((constructor)) void nullcuda_configure(void)
{
    const char *s;
    installed = (int)size_env("NULLCUDA_DEVICES", 1);
    if (installed > MAXDEV) installed = MAXDEV;
    for (ndev = 0; ndev < installed; ndev++) physical[ndev] = ndev;
    if ((s = getenv("CUDA_VISIBLE_DEVICES"))) {     /* numbers only; the first that is none of ours ends the list */
        char *end;
        for (ndev = 0; ndev < MAXDEV; s = end + 1) {
            long n = strtol(s, &end, 10);
            if (end == s || n < 0 || n >= installed) break;
            physical[ndev++] = (int)n;
            if (*end != ',') break;
        }
    }
    total = UP(size_env("NULLCUDA_MEMORY", total), GRAN);
    context_bytes = size_env("NULLCUDA_CONTEXT", 0);
    other_bytes = size_env("NULLCUDA_OTHER", 0);
    sms = (int)size_env("NULLCUDA_SMS", 108);
    copying = (int)size_env("NULLCUDA_COPY", 1);
    tracing = (int)size_env("NULLCUDA_TRACE", 0);
    if ((s = getenv("NULLCUDA_NAME"))) snprintf(devname, sizeof devname, "%s", s);
    if ((s = getenv("NULLCUDA_CC"))) sscanf(s, "%d.%d", &cc_major, &cc_minor);
}

static void trace(const char *fmt, ...)
{
    va_list ap;
    if (!tracing) return;
    va_start(ap, fmt);
    fputs("nullcuda: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

static cudaError_t fail(cudaError_t e) { return last = e; }

/* ---- what the tests (through ctypes) and nullnvml.c ask, by number of the installed device ---- */
static int ordinal(int p)                    /* the device number of an installed device, or -1 */
{
    for (int d = 0; d < ndev; d++) if (physical[d] == p) return d;
    return -1;
}
#define OF(type, name, value) type nullcuda_##name(int p) { int d = ordinal(p); return d < 0 ? 0 : (type)(value); }
size_t nullcuda_total(int p) { return p >= 0 && p < installed ? total : 0; }
size_t nullcuda_other(int p) { return p >= 0 && p < installed ? other_bytes : 0; }
OF(size_t, context, dev[d].active ? context_bytes : 0)
OF(size_t, used, dev[d].used)
OF(size_t, peak, dev[d].peak)
OF(long, mallocs, dev[d].mallocs)
OF(long, frees, dev[d].frees)
OF(long, fails, dev[d].fails)
long nullcuda_launches(void) { return launches; }
int nullcuda_devices(void) { return installed; }
const char *nullcuda_name(void) { return devname; }

/* A function that does nothing: counted as a success (or whatever `ret` says) and
   optionally traced.  Written as top-level asm so that it needs no prototype. */
__attribute__((used)) HIDDEN int nullcuda_stub(const char *name, int ret)
{
    if (tracing > 1) trace("stub %s -> %d", name, ret);
    return ret;
}
#define STUB(name, ret) __asm__(".text\n.globl " #name "\n.type " #name ",@function\n" #name ":\n" \
    "leaq 77f(%rip),%rdi\nmovl $" #ret ",%esi\njmp nullcuda_stub\n77: .string \"" #name "\"\n");
#define S(name) STUB(name, 0)

/* ---- address ranges: device memory, pinned host memory, reserved and mapped addresses ---- */
enum { DEVICE, HOST, RESERVED, MAPPED };
typedef struct range { uintptr_t p; size_t n, phys; int dev, kind, owned; struct handle *h; struct range *next; } range;
typedef struct handle { size_t n; int dev, refs; CUmemAllocationProp prop; } handle;
static range *ranges;                         /* sorted by address; MAPPED ones lie inside RESERVED ones */

static range *find(uintptr_t p)
{
    range *r, *best = NULL;
    for (r = ranges; r && r->p <= p; r = r->next)
        if (p < r->p + r->n || (p == r->p)) best = r;
    return best;
}

static range *insert(uintptr_t p, size_t n, int d, int kind)
{
    range **q = &ranges, *r = calloc(1, sizeof *r);
    while (*q && (*q)->p < p) q = &(*q)->next;
    if (kind == MAPPED) while (*q && (*q)->p == p) q = &(*q)->next;
    r->p = p; r->n = n; r->dev = d; r->kind = kind; r->next = *q;
    return *q = r;
}

static int take(uintptr_t p, int kind, range *out)  /* remove the range that starts at p */
{
    range **q, *r;
    for (q = &ranges; (r = *q) && r->p <= p; q = &r->next)
        if (r->p == p && r->kind == kind) { *out = *r; *q = r->next; free(r); return 1; }
    return 0;
}

static uintptr_t gap(uintptr_t base, size_t n, size_t align)  /* first fit, as reuse of addresses is the rule */
{
    uintptr_t at = base;
    range *r;
    for (r = ranges; r; r = r->next) {
        if (r->p + r->n <= at || r->p < base) continue;
        if (r->p >= at + n) break;
        at = UP(r->p + r->n, align);
    }
    return at;
}

static void *map_at(uintptr_t p, size_t n, int prot, int fixed)
{
    void *m = mmap((void *)p, n, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0);
    if (m == MAP_FAILED) { fprintf(stderr, "nullcuda: mmap %#lx %zu: %s\n", p, n, strerror(errno)); return NULL; }
    madvise(m, n, MADV_NOHUGEPAGE);           /* else one touched byte could cost 2 MiB of the host */
    return m;
}

static size_t avail(int d)
{
    size_t busy = dev[d].used + context_bytes + other_bytes;
    return busy < total ? total - busy : 0;
}

static int charge(int d, size_t n)
{
    if (n > avail(d)) { dev[d].fails++; trace("device %d full: %zu wanted, %zu free", d, n, avail(d)); return 0; }
    dev[d].used += n;
    if (dev[d].used > dev[d].peak) dev[d].peak = dev[d].used;
    dev[d].active = 1;
    return 1;
}

static cudaError_t dev_alloc(void **out, size_t n, int d)
{
    size_t phys = UP(n ? n : 1, GRAN);
    cudaError_t e = cudaErrorMemoryAllocation;
    uintptr_t p;
    *out = NULL;
    if (d < 0 || d >= ndev) return fail(cudaErrorInvalidDevice);
    if (!n) return cudaSuccess;
    pthread_mutex_lock(&mu);
    if (charge(d, phys)) {
        p = gap(DEV_BASE + d * WINDOW, phys, GRAN);
        if (map_at(p, phys, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE)) {
            insert(p, n, d, DEVICE)->phys = phys;
            dev[d].mallocs++;
            *out = (void *)p;
            e = cudaSuccess;
        } else dev[d].used -= phys;
    }
    trace("malloc dev %d %zu -> %p (used %zu)", d, n, *out, dev[d].used);
    pthread_mutex_unlock(&mu);
    return e ? fail(e) : e;
}

static cudaError_t dev_free(void *ptr)
{
    range r;
    int ok;
    if (!ptr) { dev[cur].active = 1; return cudaSuccess; }
    pthread_mutex_lock(&mu);
    if ((ok = take((uintptr_t)ptr, DEVICE, &r))) {
        munmap(ptr, r.phys);
        dev[r.dev].used -= r.phys;
        dev[r.dev].frees++;
        trace("free dev %d %p %zu (used %zu)", r.dev, ptr, r.n, dev[r.dev].used);
    }
    pthread_mutex_unlock(&mu);
    return ok ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaMalloc(void **p, size_t n) { return dev_alloc(p, n, cur); }
cudaError_t cudaFree(void *p) { return dev_free(p); }
cudaError_t cudaMemGetInfo(size_t *f, size_t *t)
{
    pthread_mutex_lock(&mu);
    *f = avail(cur); *t = total;
    pthread_mutex_unlock(&mu);
    return cudaSuccess;
}

cudaError_t cudaHostAlloc(void **p, size_t n, unsigned f)
{
    size_t len = UP(n ? n : 1, PAGE);
    (void)f;
    if (!(*p = map_at(0, len, PROT_READ | PROT_WRITE, 0))) return fail(cudaErrorMemoryAllocation);
    pthread_mutex_lock(&mu);
    insert((uintptr_t)*p, len, cur, HOST)->owned = 1;
    pthread_mutex_unlock(&mu);
    trace("host alloc %zu -> %p", n, *p);
    return cudaSuccess;
}
cudaError_t cudaMallocHost(void **p, size_t n) { return cudaHostAlloc(p, n, 0); }
static cudaError_t host_drop(void *p)
{
    range r;
    int ok;
    pthread_mutex_lock(&mu);
    if ((ok = take((uintptr_t)p, HOST, &r)) && r.owned) munmap(p, r.n);
    pthread_mutex_unlock(&mu);
    return ok || !p ? cudaSuccess : fail(cudaErrorInvalidValue);
}
cudaError_t cudaFreeHost(void *p) { return host_drop(p); }
cudaError_t cudaHostRegister(void *p, size_t n, unsigned f)
{
    (void)f;
    pthread_mutex_lock(&mu);
    insert((uintptr_t)p, n, cur, HOST);
    pthread_mutex_unlock(&mu);
    return cudaSuccess;
}
cudaError_t cudaHostUnregister(void *p) { return host_drop(p); }
cudaError_t cudaHostGetDevicePointer(void **d, void *h, unsigned f) { (void)f; *d = h; return cudaSuccess; }

cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p)
{
    range *r;
    memset(a, 0, sizeof *a);
    pthread_mutex_lock(&mu);
    r = find((uintptr_t)p);
    a->type = !r ? cudaMemoryTypeUnregistered : r->kind == HOST ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    a->device = r ? r->dev : -2;
    a->hostPointer = !r || r->kind == HOST ? (void *)p : NULL;
    a->devicePointer = r ? (void *)p : NULL;
    pthread_mutex_unlock(&mu);
    return cudaSuccess;
}

/* ---- copies: real, but a page that is already right is not touched, so that
        device memory nobody wrote (all of it, but for copies from the host) stays uncommitted ---- */
static void move(void *dst, const void *src, size_t n)
{
    char *d = dst;
    const char *s = src;
    if (!copying) {                           /* the device holds zeros, and nothing else ever */
        if ((uintptr_t)dst < DEV_BASE || (uintptr_t)dst >= 2 * DEV_BASE) memset(dst, 0, n);
        return;
    }
    while (n) {
        size_t c = n < 16 * PAGE ? n : 16 * PAGE;
        if (memcmp(d, s, c)) memmove(d, s, c);
        d += c; s += c; n -= c;
    }
}

static void fill(void *p, int v, size_t n)
{
    uintptr_t a = UP((uintptr_t)p, PAGE), z = ((uintptr_t)p + n) & ~(PAGE - 1);
    range *r;
    if (!v && z > a + 16 * PAGE) {            /* zero whole pages by dropping them */
        pthread_mutex_lock(&mu);
        r = find((uintptr_t)p);
        if (r && r->kind != HOST && !madvise((void *)a, z - a, MADV_DONTNEED)) {
            memset(p, 0, a - (uintptr_t)p);
            memset((void *)z, 0, (uintptr_t)p + n - z);
            n = 0;
        }
        pthread_mutex_unlock(&mu);
    }
    memset(p, v, n);
}

cudaError_t cudaMemcpy(void *d, const void *s, size_t n, kind_t k) { (void)k; move(d, s, n); return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void *d, const void *s, size_t n, kind_t k, cudaStream_t st) { (void)k; (void)st; move(d, s, n); return cudaSuccess; }
cudaError_t cudaMemcpyPeerAsync(void *d, int dd, const void *s, int sd, size_t n, cudaStream_t st) { (void)dd; (void)sd; (void)st; move(d, s, n); return cudaSuccess; }
cudaError_t cudaMemcpy2DAsync(void *d, size_t dp, const void *s, size_t sp, size_t w, size_t h, kind_t k, cudaStream_t st)
{
    (void)k; (void)st;
    for (; h; h--, d = (char *)d + dp, s = (const char *)s + sp) move(d, s, w);
    return cudaSuccess;
}
cudaError_t cudaMemcpyToSymbol(const void *sym, const void *s, size_t n, size_t off, kind_t k) { (void)sym; (void)s; (void)n; (void)off; (void)k; return cudaSuccess; }
cudaError_t cudaGetSymbolAddress(void **p, const void *sym) { *p = (void *)sym; return cudaSuccess; }
cudaError_t cudaMemset(void *p, int v, size_t n) { fill(p, v, n); return cudaSuccess; }
cudaError_t cudaMemsetAsync(void *p, int v, size_t n, cudaStream_t s) { (void)s; fill(p, v, n); return cudaSuccess; }

/* ---- devices ---- */
cudaError_t cudaGetDeviceCount(int *n) { *n = ndev; return ndev ? cudaSuccess : fail(cudaErrorNoDevice); }
cudaError_t cudaGetDevice(int *d) { *d = cur; return cudaSuccess; }
cudaError_t cudaSetDevice(int d)
{
    if (d < 0 || d >= ndev) return fail(cudaErrorInvalidDevice);
    cur = d;
    dev[d].active = 1;
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize(void) { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int *v) { *v = 13000; return cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int *v) { *v = CUDART_VERSION; return cudaSuccess; }
cudaError_t cudaDeviceCanAccessPeer(int *ok, int a, int b) { *ok = a != b; return cudaSuccess; }
cudaError_t cudaDeviceEnablePeerAccess(int d, unsigned f) { (void)d; (void)f; return cudaSuccess; }
cudaError_t cudaDeviceGetStreamPriorityRange(int *lo, int *hi) { if (lo) *lo = 0; if (hi) *hi = -5; return cudaSuccess; }
cudaError_t cudaDeviceGetPCIBusId(char *s, int n, int d) { snprintf(s, n, "0000:%02X:00.0", physical[d] + 1); return cudaSuccess; }
cudaError_t cudaDeviceGetGraphMemAttribute(int d, enum cudaGraphMemAttributeType a, void *v) { (void)d; (void)a; *(uint64_t *)v = 0; return cudaSuccess; }
S(cudaDeviceSetGraphMemAttribute)

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int d)
{
    if (d < 0 || d >= ndev) return fail(cudaErrorInvalidDevice);
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s", devname);
    memcpy(p->uuid.bytes, "NULLCUDA-DEVICE", 15);
    p->uuid.bytes[15] = (char)physical[d];
    p->totalGlobalMem = total;
    p->sharedMemPerBlock = 48 << 10;
    p->sharedMemPerBlockOptin = cc_major >= 9 ? 227 << 10 : cc_minor ? 99 << 10 : 163 << 10;
    p->sharedMemPerMultiprocessor = p->sharedMemPerBlockOptin + 1024;
    p->reservedSharedMemPerBlock = 1024;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->memPitch = 0x7fffffff;
    p->maxThreadsPerBlock = 1024;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = 0x7fffffff; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->totalConstMem = 65536;
    p->major = cc_major; p->minor = cc_minor;
    p->textureAlignment = 512; p->texturePitchAlignment = 32; p->surfaceAlignment = 512;
    p->maxTexture1D = 131072; p->maxTexture2D[0] = 131072; p->maxTexture2D[1] = 65536;
    p->multiProcessorCount = sms;
    p->canMapHostMemory = p->concurrentKernels = p->ECCEnabled = p->unifiedAddressing = 1;
    p->pciBusID = physical[d] + 1;
    p->asyncEngineCount = 3;
    p->memoryBusWidth = 5120;
    p->l2CacheSize = 40 << 20;
    p->maxThreadsPerMultiProcessor = 2048;
    p->streamPrioritiesSupported = p->globalL1CacheSupported = p->localL1CacheSupported = 1;
    p->managedMemory = p->concurrentManagedAccess = p->computePreemptionSupported = 1;
    p->canUseHostPointerForRegisteredMem = p->cooperativeLaunch = p->hostRegisterSupported = 1;
    p->maxBlocksPerMultiProcessor = 32;
    p->memoryPoolsSupported = p->ipcEventSupported = p->unifiedFunctionPointers = 1;
    p->clusterLaunch = cc_major >= 9;
    p->hostNumaId = -1;
    return cudaSuccess;
}

static int attribute(int a, int d)
{
    struct cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, d)) return 0;
    switch (a) {
    case cudaDevAttrMaxThreadsPerBlock: return p.maxThreadsPerBlock;
    case cudaDevAttrMaxBlockDimX: return p.maxThreadsDim[0];
    case cudaDevAttrMaxBlockDimY: return p.maxThreadsDim[1];
    case cudaDevAttrMaxBlockDimZ: return p.maxThreadsDim[2];
    case cudaDevAttrMaxGridDimX: return p.maxGridSize[0];
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return p.maxGridSize[1];
    case cudaDevAttrMaxSharedMemoryPerBlock: return (int)p.sharedMemPerBlock;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return (int)p.sharedMemPerBlockOptin;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return (int)p.sharedMemPerMultiprocessor;
    case cudaDevAttrReservedSharedMemoryPerBlock: return 1024;
    case cudaDevAttrTotalConstantMemory: return 65536;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMaxRegistersPerBlock: case cudaDevAttrMaxRegistersPerMultiprocessor: return 65536;
    case cudaDevAttrClockRate: return 1410000;
    case cudaDevAttrMemoryClockRate: return 1215000;
    case cudaDevAttrMultiProcessorCount: return p.multiProcessorCount;
    case cudaDevAttrL2CacheSize: return p.l2CacheSize;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return p.maxThreadsPerMultiProcessor;
    case cudaDevAttrMaxBlocksPerMultiprocessor: return p.maxBlocksPerMultiProcessor;
    case cudaDevAttrComputeCapabilityMajor: return cc_major;
    case cudaDevAttrComputeCapabilityMinor: return cc_minor;
    case cudaDevAttrPciBusId: return p.pciBusID;
    case cudaDevAttrClusterLaunch: return p.clusterLaunch;
    case cudaDevAttrTextureAlignment: return 512;
    case cudaDevAttrConcurrentKernels: case cudaDevAttrUnifiedAddressing: case cudaDevAttrManagedMemory:
    case cudaDevAttrConcurrentManagedAccess: case cudaDevAttrCooperativeLaunch: case cudaDevAttrHostRegisterSupported:
    case cudaDevAttrMemoryPoolsSupported: case cudaDevAttrStreamPrioritiesSupported: case cudaDevAttrCanMapHostMemory: return 1;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: return 1;   /* 102: expandable segments */
    case CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED: return 1;
    }
    return 0;
}
cudaError_t cudaDeviceGetAttribute(int *v, enum cudaDeviceAttr a, int d) { *v = attribute(a, d); return cudaSuccess; }

/* ---- errors ---- */
cudaError_t cudaGetLastError(void) { cudaError_t e = last; last = cudaSuccess; return e; }
cudaError_t cudaPeekAtLastError(void) { return last; }
static const struct { int code; const char *name, *text; } errors[] = {
    { 0, "cudaSuccess", "no error" }, { 1, "cudaErrorInvalidValue", "invalid argument" },
    { 2, "cudaErrorMemoryAllocation", "out of memory" }, { 100, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { 101, "cudaErrorInvalidDevice", "invalid device ordinal" }, { 500, "cudaErrorSymbolNotFound", "named symbol not found" },
    { 801, "cudaErrorNotSupported", "operation not supported" } };
const char *cudaGetErrorName(cudaError_t e) { for (unsigned i = 0; i < 7; i++) if (errors[i].code == (int)e) return errors[i].name; return "cudaErrorUnknown"; }
const char *cudaGetErrorString(cudaError_t e) { for (unsigned i = 0; i < 7; i++) if (errors[i].code == (int)e) return errors[i].text; return "unknown error"; }

/* ---- streams, events, capture: everything has finished as soon as it is issued ---- */
struct CUstream_st { int prio; enum cudaStreamCaptureStatus cap; unsigned long long id; cudaGraph_t graph; };
static unsigned long long captures;
#define OBJ(n) calloc(1, n)
static int ours(cudaStream_t s) { return (uintptr_t)s > 4096; }  /* 0, 1, 2 are the default streams */
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *s, unsigned f, int prio) { (void)f; *s = OBJ(sizeof **s); (*s)->prio = prio; return cudaSuccess; }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned f) { return cudaStreamCreateWithPriority(s, f, 0); }
cudaError_t cudaStreamCreate(cudaStream_t *s) { return cudaStreamCreateWithPriority(s, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) { if (ours(s)) free(s); return cudaSuccess; }
cudaError_t cudaStreamGetPriority(cudaStream_t s, int *p) { *p = ours(s) ? s->prio : 0; return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus *st) { *st = ours(s) ? s->cap : 0; return cudaSuccess; }
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus *st, unsigned long long *id, cudaGraph_t *g,
                                     const cudaGraphNode_t **deps, const cudaGraphEdgeData **edges, size_t *n)
{
    *st = ours(s) ? s->cap : cudaStreamCaptureStatusNone;
    if (id) *id = *st ? s->id : 0;
    if (g) *g = *st ? s->graph : NULL;
    if (deps) *deps = NULL;
    if (edges) *edges = NULL;
    if (n) *n = 0;
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m)
{
    (void)m;
    if (!ours(s)) return fail(cudaErrorNotSupported);
    s->cap = cudaStreamCaptureStatusActive; s->id = ++captures; s->graph = OBJ(64);
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) { s->cap = cudaStreamCaptureStatusNone; *g = s->graph; return cudaSuccess; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long f) { (void)g; (void)f; *e = OBJ(64); return cudaSuccess; }
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t *nodes, size_t *n) { (void)g; (void)nodes; *n = 1; return cudaSuccess; }
cudaError_t cudaUserObjectCreate(cudaUserObject_t *o, void *p, cudaHostFn_t f, unsigned r, unsigned fl) { (void)p; (void)f; (void)r; (void)fl; *o = OBJ(64); return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned f) { (void)f; *e = OBJ(64); return cudaSuccess; }
cudaError_t cudaEventCreate(cudaEvent_t *e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { (void)s; clock_gettime(CLOCK_MONOTONIC, (struct timespec *)e); return cudaSuccess; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { (void)f; return cudaEventRecord(e, s); }
cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t a, cudaEvent_t b)   /* the host's time; never 0, which auto-tuners divide by */
{
    struct timespec *x = (struct timespec *)a, *y = (struct timespec *)b;
    *ms = (float)((y->tv_sec - x->tv_sec) * 1e3 + (y->tv_nsec - x->tv_nsec) * 1e-6) + 0.001f;
    return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t f, void *u) { (void)s; f(u); return cudaSuccess; }
cudaError_t cudaStreamAddCallback(cudaStream_t s, cudaStreamCallback_t f, void *u, unsigned fl) { (void)fl; f(s, cudaSuccess, u); return cudaSuccess; }
S(cudaEventQuery) S(cudaEventSynchronize)
S(cudaStreamQuery) S(cudaStreamSynchronize) S(cudaStreamWaitEvent) S(cudaThreadExchangeStreamCaptureMode)
S(cudaStreamUpdateCaptureDependencies) S(cudaGraphDestroy) S(cudaGraphExecDestroy) S(cudaGraphLaunch)
S(cudaGraphRetainUserObject) S(cudaUserObjectRelease) S(cudaProfilerStart) S(cudaProfilerStop)
#define NOT(name) STUB(name, 801)
NOT(cudaGraphAddNode) NOT(cudaGraphConditionalHandleCreate) NOT(cudaGraphNodeGetDependencies) NOT(cudaStreamBeginCaptureToGraph)
NOT(cudaIpcCloseMemHandle) NOT(cudaIpcGetMemHandle) NOT(cudaIpcOpenMemHandle) NOT(cudaIpcGetEventHandle) NOT(cudaIpcOpenEventHandle)

/* ---- memory pools (PYTORCH_ALLOC_CONF=backend:cudaMallocAsync): every allocation its own ---- */
static size_t pool_high[MAXDEV];
cudaError_t cudaDeviceGetDefaultMemPool(cudaMemPool_t *p, int d) { *p = (cudaMemPool_t)(uintptr_t)(4096 + d); return cudaSuccess; }
cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t s)
{
    cudaError_t e = ((void)s, dev_alloc(p, n, cur));
    if (dev[cur].used > pool_high[cur]) pool_high[cur] = dev[cur].used;
    return e;
}
cudaError_t cudaFreeAsync(void *p, cudaStream_t s) { (void)s; return dev_free(p); }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void *v)
{
    int d = (int)((uintptr_t)p - 4096);
    *(uint64_t *)v = a == cudaMemPoolAttrReservedMemHigh || a == cudaMemPoolAttrUsedMemHigh ? pool_high[d] : dev[d].used;
    return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void *v)
{
    if (a == cudaMemPoolAttrReservedMemHigh || a == cudaMemPoolAttrUsedMemHigh) pool_high[(uintptr_t)p - 4096] = *(uint64_t *)v;
    return cudaSuccess;
}
S(cudaMemPoolSetAccess) S(cudaMemPoolTrimTo)

/* ---- kernels: registered, asked about, launched; never run ---- */
static __thread struct { dim3 grid, block; size_t smem; cudaStream_t s; } call[8];
static __thread int depth;
static cudaError_t launched(void) { __atomic_add_fetch(&launches, 1, __ATOMIC_RELAXED); return cudaSuccess; }
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t smem, struct CUstream_st *s)
{
    if (depth < 8) { call[depth].grid = grid; call[depth].block = block; call[depth].smem = smem; call[depth].s = s; }
    depth++;
    return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3 *grid, dim3 *block, size_t *smem, void *s)
{
    if (depth <= 0) return cudaErrorInvalidValue;
    if (--depth < 8) { *grid = call[depth].grid; *block = call[depth].block; *smem = call[depth].smem; *(cudaStream_t *)s = call[depth].s; }
    return cudaSuccess;
}
static void *fatbin[1];
void **__cudaRegisterFatBinary(void *f) { (void)f; return fatbin; }
char __cudaInitModule(void **h) { (void)h; return 1; }
cudaError_t __cudaGetKernel(cudaKernel_t *k, const void *f) { *k = (cudaKernel_t)f; return cudaSuccess; }
cudaError_t __cudaLaunchKernel(cudaKernel_t k, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { (void)k; (void)g; (void)b; (void)a; (void)m; (void)s; return launched(); }
cudaError_t cudaLaunchKernel(const void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { (void)f; (void)g; (void)b; (void)a; (void)m; (void)s; return launched(); }
cudaError_t cudaLaunchCooperativeKernel(const void *f, dim3 g, dim3 b, void **a, size_t m, cudaStream_t s) { return cudaLaunchKernel(f, g, b, a, m, s); }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t *c, const void *f, void **a) { (void)c; (void)f; (void)a; return launched(); }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f)
{
    (void)f;
    memset(a, 0, sizeof *a);
    a->maxThreadsPerBlock = 1024; a->numRegs = 32;
    a->ptxVersion = a->binaryVersion = cc_major * 10 + cc_minor;
    a->maxDynamicSharedSizeBytes = 48 << 10;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int block, size_t smem, unsigned fl)
{
    (void)f; (void)smem; (void)fl;
    *n = block > 0 ? 2048 / block : 1;
    if (*n < 1) *n = 1;
    if (*n > 32) *n = 32;
    return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t m) { return cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, f, b, m, 0); }
cudaError_t cudaLibraryGetKernel(cudaKernel_t *k, cudaLibrary_t l, const char *n) { (void)l; (void)n; *k = OBJ(64); return cudaSuccess; }
cudaError_t cudaLibraryLoadData(cudaLibrary_t *l, const void *c, enum cudaJitOption *jo, void **jv, unsigned nj, enum cudaLibraryOption *lo, void **lv, unsigned nl)
{ (void)c; (void)jo; (void)jv; (void)nj; (void)lo; (void)lv; (void)nl; *l = OBJ(64); return cudaSuccess; }
S(__cudaRegisterFatBinaryEnd) S(__cudaUnregisterFatBinary) S(__cudaRegisterFunction) S(__cudaRegisterVar)
S(cudaFuncSetAttribute) S(cudaKernelSetAttributeForDevice) S(cudaLibraryUnload)

/* ---- driver API: the names that torch looks up, chiefly the virtual memory ones ---- */
CUresult cuInit(unsigned f) { (void)f; return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *v) { *v = 13000; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *d, int i) { *d = i; return i < ndev ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetCount(int *n) { *n = ndev; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *s, int n, CUdevice d) { (void)d; snprintf(s, n, "%s", devname); return CUDA_SUCCESS; }
CUresult cuDeviceTotalMem(size_t *n, CUdevice d) { (void)d; *n = total; return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *v, CUdevice_attribute a, CUdevice d) { *v = attribute(a, d); return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxGetState(CUdevice d, unsigned *f, int *active) { *f = 0; *active = d < ndev && dev[d].active; return CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext *c, CUdevice d) { *c = (CUcontext)(uintptr_t)(0x1000 + d); return CUDA_SUCCESS; }
CUresult cuCtxGetCurrent(CUcontext *c) { return cuDevicePrimaryCtxRetain(c, cur); }
CUresult cuCtxGetDevice(CUdevice *d) { *d = cur; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext c) { (void)c; return CUDA_SUCCESS; }
CUresult cuCtxGetLimit(size_t *n, CUlimit l) { (void)l; *n = 0; return CUDA_SUCCESS; }
S(cuCtxSetLimit)
CUresult cuGetErrorString(CUresult e, const char **s) { *s = cudaGetErrorString((cudaError_t)e); return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult e, const char **s) { *s = cudaGetErrorName((cudaError_t)e); return CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void *v, CUpointer_attribute a, CUdeviceptr p)
{
    struct cudaPointerAttributes at;
    cudaPointerGetAttributes(&at, (void *)p);
    switch (a) {
    case CU_POINTER_ATTRIBUTE_CONTEXT: return cuDevicePrimaryCtxRetain(v, at.device);
    case CU_POINTER_ATTRIBUTE_MEMORY_TYPE: *(int *)v = at.type == cudaMemoryTypeDevice ? CU_MEMORYTYPE_DEVICE : CU_MEMORYTYPE_HOST; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER: *(CUdeviceptr *)v = p; return CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: *(int *)v = at.device; return CUDA_SUCCESS;
    default: return CUDA_ERROR_NOT_SUPPORTED;
    }
}
CUresult cuMemGetAddressRange(CUdeviceptr *base, size_t *n, CUdeviceptr p)
{
    range *r;
    pthread_mutex_lock(&mu);
    if ((r = find(p))) { if (base) *base = r->p; if (n) *n = r->n; }
    pthread_mutex_unlock(&mu);
    return r ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuMemGetAllocationGranularity(size_t *g, const CUmemAllocationProp *p, CUmemAllocationGranularity_flags f) { (void)p; (void)f; *g = GRAN; return CUDA_SUCCESS; }
CUresult cuMemAddressReserve(CUdeviceptr *p, size_t n, size_t align, CUdeviceptr want, unsigned long long f)
{
    uintptr_t at;
    (void)want; (void)f;
    pthread_mutex_lock(&mu);
    at = gap(RSV_BASE, n, align > GRAN ? align : GRAN);
    if (map_at(at, n, PROT_NONE, MAP_FIXED_NOREPLACE)) { insert(at, n, cur, RESERVED); *p = at; } else at = 0;
    pthread_mutex_unlock(&mu);
    trace("reserve %zu -> %#lx", n, at);
    return at ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}
CUresult cuMemAddressFree(CUdeviceptr p, size_t n)
{
    range r;
    pthread_mutex_lock(&mu);
    if (take(p, RESERVED, &r)) munmap((void *)p, n);
    pthread_mutex_unlock(&mu);
    return CUDA_SUCCESS;
}
CUresult cuMemCreate(CUmemGenericAllocationHandle *out, size_t n, const CUmemAllocationProp *prop, unsigned long long f)
{
    handle *h = calloc(1, sizeof *h);
    int ok;
    (void)f;
    h->n = n; h->dev = prop->location.id; h->refs = 1; h->prop = *prop;
    pthread_mutex_lock(&mu);
    if ((ok = charge(h->dev, n))) dev[h->dev].mallocs++;
    pthread_mutex_unlock(&mu);
    trace("create dev %d %zu -> %s (used %zu)", h->dev, n, ok ? "ok" : "full", dev[h->dev].used);
    if (!ok) { free(h); return CUDA_ERROR_OUT_OF_MEMORY; }
    *out = (CUmemGenericAllocationHandle)(uintptr_t)h;
    return CUDA_SUCCESS;
}
static void unref(handle *h)                  /* physical memory goes when released and mapped nowhere */
{
    if (--h->refs) return;
    dev[h->dev].used -= h->n;
    dev[h->dev].frees++;
    trace("release dev %d %zu (used %zu)", h->dev, h->n, dev[h->dev].used);
    free(h);
}
CUresult cuMemRelease(CUmemGenericAllocationHandle h)
{
    pthread_mutex_lock(&mu);
    unref((handle *)(uintptr_t)h);
    pthread_mutex_unlock(&mu);
    return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr p, size_t n, size_t off, CUmemGenericAllocationHandle hh, unsigned long long f)
{
    handle *h = (handle *)(uintptr_t)hh;
    (void)off; (void)f;
    pthread_mutex_lock(&mu);
    if (map_at(p, n, PROT_READ | PROT_WRITE, MAP_FIXED)) { insert(p, n, h->dev, MAPPED)->h = h; h->refs++; }
    pthread_mutex_unlock(&mu);
    return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr p, size_t n)
{
    uintptr_t end = p + n;
    range r;
    pthread_mutex_lock(&mu);
    while (p < end && take(p, MAPPED, &r)) { map_at(r.p, r.n, PROT_NONE, MAP_FIXED); unref(r.h); p += r.n; }
    pthread_mutex_unlock(&mu);
    return CUDA_SUCCESS;
}
CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle *h, void *p)
{
    range *r;
    pthread_mutex_lock(&mu);
    if ((r = find((uintptr_t)p)) && r->h) { r->h->refs++; *h = (CUmemGenericAllocationHandle)(uintptr_t)r->h; }
    pthread_mutex_unlock(&mu);
    return r && r->h ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuMemGetAllocationPropertiesFromHandle(CUmemAllocationProp *p, CUmemGenericAllocationHandle h) { *p = ((handle *)(uintptr_t)h)->prop; return CUDA_SUCCESS; }
CUresult cuMemsetD32Async(CUdeviceptr p, unsigned v, size_t n, CUstream s) { (void)s; for (size_t i = 0; i < n; i++) ((unsigned *)p)[i] = v; return CUDA_SUCCESS; }
CUresult cuStreamWriteValue32(CUstream s, CUdeviceptr p, cuuint32_t v, unsigned f) { (void)s; (void)f; *(cuuint32_t *)p = v; return CUDA_SUCCESS; }
S(cuMemSetAccess)
NOT(cuMemExportToShareableHandle) NOT(cuMemImportFromShareableHandle) NOT(cuMulticastAddDevice) NOT(cuMulticastBindMem)
NOT(cuMulticastCreate) NOT(cuMulticastUnbind) NOT(cuGetExportTable)

/* modules (NVRTC's and Triton's): every function is found, none does anything */
CUresult cuModuleLoadData(CUmodule *m, const void *image) { (void)image; *m = OBJ(64); return CUDA_SUCCESS; }
CUresult cuModuleLoadDataEx(CUmodule *m, const void *image, unsigned n, CUjit_option *o, void **v) { (void)n; (void)o; (void)v; return cuModuleLoadData(m, image); }
CUresult cuModuleLoad(CUmodule *m, const char *file) { return cuModuleLoadData(m, file); }
CUresult cuModuleGetFunction(CUfunction *f, CUmodule m, const char *name) { (void)m; (void)name; *f = OBJ(64); return CUDA_SUCCESS; }
CUresult cuFuncGetAttribute(int *v, CUfunction_attribute a, CUfunction f)
{
    (void)f;
    *v = a == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : a == CU_FUNC_ATTRIBUTE_NUM_REGS ? 32 : 0;
    return CUDA_SUCCESS;
}
CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, CUfunction f, int b, size_t m) { cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(n, f, b, m, 0); return CUDA_SUCCESS; }
CUresult cuOccupancyMaxActiveClusters(int *n, CUfunction f, const CUlaunchConfig *c) { (void)f; (void)c; *n = 1; return CUDA_SUCCESS; }
CUresult cuLaunchKernel(CUfunction f, unsigned a, unsigned b, unsigned c, unsigned x, unsigned y, unsigned z, unsigned m, CUstream s, void **p, void **e)
{ (void)f; (void)a; (void)b; (void)c; (void)x; (void)y; (void)z; (void)m; (void)s; (void)p; (void)e; launched(); return CUDA_SUCCESS; }
CUresult cuLaunchKernelEx(const CUlaunchConfig *c, CUfunction f, void **p, void **e) { (void)c; (void)f; (void)p; (void)e; launched(); return CUDA_SUCCESS; }
S(cuModuleUnload) S(cuFuncSetAttribute) S(cuFuncSetCacheConfig) S(cuTensorMapEncodeTiled) S(cuLaunchCooperativeKernel)
NOT(cuLinkAddData_v2) NOT(cuLinkComplete) NOT(cuLinkCreate_v2)

static void *driver_entry(const char *name)
{
    static void *self;
    char v2[96];
    void *f;
    Dl_info me;
    if (!self && dladdr((void *)driver_entry, &me)) self = dlopen(me.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    snprintf(v2, sizeof v2, "%s_v2", name);
    if (!self || strncmp(name, "cu", 2)) return NULL;
    f = dlsym(self, v2);
    if (!f) f = dlsym(self, name);
    if (tracing > 1) trace("driver entry %s -> %p", name, f);
    return f;
}
cudaError_t cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned v, unsigned long long fl, enum cudaDriverEntryPointQueryResult *st)
{
    (void)v; (void)fl;
    *f = driver_entry(name);
    if (st) *st = *f ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}
CUresult cuGetProcAddress(const char *name, void **f, int v, cuuint64_t fl, CUdriverProcAddressQueryResult *st)
{
    (void)v; (void)fl;
    *f = driver_entry(name);
    if (st) *st = *f ? CU_GET_PROC_ADDRESS_SUCCESS : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return *f ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

/* ---- cuBLAS, cuBLASLt: handles and one "algorithm" that needs no workspace ---- */
int cublasCreate_v2(void **h) { *h = OBJ(64); return 0; }
int cublasDestroy_v2(void *h) { free(h); return 0; }
int cublasGetMathMode(void *h, int *m) { (void)h; *m = 0; return 0; }
int cublasGetPointerMode_v2(void *h, int *m) { (void)h; *m = 0; return 0; }
size_t cublasLtGetVersion(void) { return 130101; }
int cublasLtMatmulDescCreate(void **d, int c, int s) { (void)c; (void)s; *d = OBJ(256); return 0; }
int cublasLtMatmulDescDestroy(void *d) { free(d); return 0; }
int cublasLtMatmulPreferenceCreate(void **d) { *d = OBJ(256); return 0; }
int cublasLtMatmulPreferenceDestroy(void *d) { free(d); return 0; }
int cublasLtMatrixLayoutCreate(void **d, int t, uint64_t r, uint64_t c, int64_t ld) { (void)t; (void)r; (void)c; (void)ld; *d = OBJ(256); return 0; }
int cublasLtMatrixLayoutDestroy(void *d) { free(d); return 0; }
struct lt_result { uint64_t algo[8]; size_t workspace; int state; float waves; int reserved[4]; };
int cublasLtMatmulAlgoGetHeuristic(void *h, void *d, void *a, void *b, void *c, void *dd, void *pref, int want, struct lt_result *r, int *got)
{
    (void)h; (void)d; (void)a; (void)b; (void)c; (void)dd; (void)pref;
    *got = want > 0;
    if (want > 0) { memset(r, 0, sizeof *r); r->waves = 1; }
    return 0;
}
S(cublasLtMatmul) S(cublasLtMatmulAlgoCheck) S(cublasLtMatmulAlgoConfigGetAttribute) S(cublasLtMatmulAlgoConfigSetAttribute)
S(cublasLtMatmulAlgoInit) S(cublasLtMatmulDescSetAttribute) S(cublasLtMatmulPreferenceSetAttribute) S(cublasLtMatrixLayoutSetAttribute)
S(cublasSetMathMode) S(cublasSetPointerMode_v2) S(cublasSetSmCountTarget) S(cublasSetStream_v2) S(cublasSetWorkspace_v2)
S(cublasGemmEx) S(cublasGemmStridedBatchedEx) S(cublasSgemmEx) S(cublasDotEx)
S(cublasSdot_v2) S(cublasDdot_v2) S(cublasCdotc_v2) S(cublasCdotu_v2) S(cublasZdotc_v2) S(cublasZdotu_v2)
#define SDCZ(f) S(cublasS##f) S(cublasD##f) S(cublasC##f) S(cublasZ##f)
SDCZ(gemm_v2) SDCZ(gemmStridedBatched) SDCZ(gemmBatched) SDCZ(gemv_v2) SDCZ(gelsBatched) SDCZ(geqrfBatched)
SDCZ(getrfBatched) SDCZ(getrsBatched) SDCZ(trsmBatched) SDCZ(trsm_v2) SDCZ(trmm_v2) SDCZ(axpy_v2) SDCZ(copy_v2) SDCZ(scal_v2)

/* ---- NCCL: communicators of the right shape; the other ranks are taken to hold what this one holds ---- */
struct comm { int rank, size; };
static int comm_new(void **c, int n, int rank) { struct comm *p = OBJ(sizeof *p); p->rank = rank; p->size = n; *c = p; return 0; }
int ncclGetVersion(int *v) { *v = 23007; return 0; }
int ncclGetUniqueId(void *id) { memset(id, 7, 128); return 0; }
int ncclCommInitAll(void **c, int n, const int *devs) { (void)devs; for (int i = 0; i < n; i++) comm_new(c + i, n, i); return 0; }
struct nccl_id { char b[128]; };
int ncclCommInitRank(void **c, int n, struct nccl_id id, int rank) { (void)id; return comm_new(c, n, rank); }
int ncclCommInitRankConfig(void **c, int n, struct nccl_id id, int rank, void *cfg) { (void)id; (void)cfg; return comm_new(c, n, rank); }
int ncclCommCount(struct comm *c, int *n) { *n = c->size; return 0; }
int ncclCommUserRank(struct comm *c, int *r) { *r = c->rank; return 0; }
int ncclCommGetAsyncError(void *c, int *e) { (void)c; *e = 0; return 0; }
const char *ncclGetErrorString(int e) { return e ? "error" : "no error"; }
const char *ncclGetLastError(void *c) { (void)c; return ""; }
int ncclMemAlloc(void **p, size_t n) { return cudaMalloc(p, n) ? 1 : 0; }
int ncclMemFree(void *p) { return cudaFree(p) ? 1 : 0; }
int ncclCommSplit(struct comm *c, int color, int key, void **out, void *cfg) { (void)color; (void)key; (void)cfg; return comm_new(out, c->size, c->rank); }
static size_t nbytes(size_t n, int type) { static const int w[] = { 1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1 }; return n * (type >= 0 && type < 12 ? w[type] : 1); }
int ncclAllReduce(const void *s, void *r, size_t n, int t, int op, struct comm *c, void *st) { (void)op; (void)c; (void)st; if (s != r) move(r, s, nbytes(n, t)); return 0; }
int ncclReduce(const void *s, void *r, size_t n, int t, int op, int root, struct comm *c, void *st) { (void)op; (void)st; if (c->rank == root && s != r) move(r, s, nbytes(n, t)); return 0; }
int ncclBroadcast(const void *s, void *r, size_t n, int t, int root, struct comm *c, void *st) { (void)root; (void)c; (void)st; if (s != r) move(r, s, nbytes(n, t)); return 0; }
int ncclReduceScatter(const void *s, void *r, size_t n, int t, int op, struct comm *c, void *st) { (void)op; (void)st; move(r, (const char *)s + c->rank * nbytes(n, t), nbytes(n, t)); return 0; }
int ncclAllGather(const void *s, void *r, size_t n, int t, struct comm *c, void *st)
{
    (void)st;
    for (int i = 0; i < c->size; i++) move((char *)r + i * nbytes(n, t), s, nbytes(n, t));
    return 0;
}
S(ncclAlltoAll) S(ncclBcast) S(ncclCommAbort) S(ncclCommDestroy) S(ncclCommFinalize)
S(ncclGather) S(ncclGroupEnd) S(ncclGroupStart) S(ncclRecv) S(ncclSend) S(ncclRedOpDestroy)
S(ncclCommRegister) S(ncclCommDeregister)
