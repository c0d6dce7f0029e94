// SPDX-License-Identifier: Apache-2.0
/*
 * OpenSSL's libcrypto.a as Debian has compiled it: assembly for each kind of processor, chosen at run
 * time.  One line for each result; the test knows them from elsewhere.
 *
 * This file is compiled as Debian compiles, see test_crypto.py.  `crypto smash` writes over the end of
 * an array on the stack.
 */
#include <openssl/bn.h>
#include <openssl/crypto.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/rsa.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE 100003	/* no multiple of a block, and long enough for the widest code */
#define THREADS 4

static const char *const digests[] = {
	"md5", "sha1", "sha224", "sha256", "sha512", "sha3-256", "blake2b512",
};
static unsigned char plain[SIZE], out[SIZE + 64], back[SIZE + 64];

static void fail(const char *what)
{
	ERR_print_errors_fp(stdout);
	printf("%s failed\n", what);
	exit(1);
}

static void show(const char *name, const unsigned char *bytes, size_t size)
{
	printf("%s ", name);
	for (size_t n = 0; n < size; n++)
		printf("%02x", bytes[n]);
	printf("\n");
}

static void digest(const char *name)
{
	unsigned char md[EVP_MAX_MD_SIZE];
	unsigned int size;

	if (!EVP_Digest(plain, SIZE, md, &size, EVP_get_digestbyname(name), NULL))
		fail(name);
	show(name, md, size);
}

/* Encrypts, decrypts, and shows a digest of the result and the tag. */
static void cipher(const char *name, int tagged)
{
	static const unsigned char key[32] = "0123456789abcdefghijklmnopqrstu";
	static const unsigned char iv[16] = "a vector of 16 ";
	EVP_CIPHER *kind = EVP_CIPHER_fetch(NULL, name, NULL);
	EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();
	unsigned char md[32], tag[16] = { 0 };
	int size, rest;

	if (!kind || !EVP_EncryptInit_ex2(context, kind, key, iv, NULL) ||
	    !EVP_EncryptUpdate(context, out, &size, plain, SIZE) ||
	    !EVP_EncryptFinal_ex(context, out + size, &rest))
		fail(name);
	if (tagged && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, sizeof(tag), tag) <= 0)
		fail(name);
	size += rest;
	EVP_Digest(out, size, md, NULL, EVP_sha256(), NULL);
	show(name, md, sizeof(md));
	if (tagged)
		show("tag", tag, sizeof(tag));

	if (!EVP_DecryptInit_ex2(context, kind, key, iv, NULL) ||
	    (tagged && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, sizeof(tag), tag) <= 0) ||
	    !EVP_DecryptUpdate(context, back, &rest, out, size) ||
	    !EVP_DecryptFinal_ex(context, back + rest, &size) || rest + size != SIZE ||
	    memcmp(plain, back, SIZE))
		fail(name);
	EVP_CIPHER_CTX_free(context);
	EVP_CIPHER_free(kind);
}

/* Makes a key, signs with it, and sees that the right signature is accepted and a wrong one not. */
static void signature(const char *name, EVP_PKEY *key, const EVP_MD *md)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	unsigned char sign[1024];
	size_t size = sizeof(sign);

	if (!key || !EVP_DigestSignInit(context, NULL, md, NULL, key) ||
	    !EVP_DigestSign(context, sign, &size, plain, SIZE))
		fail(name);
	EVP_MD_CTX_reset(context);
	if (!EVP_DigestVerifyInit(context, NULL, md, NULL, key) ||
	    EVP_DigestVerify(context, sign, size, plain, SIZE) != 1)
		fail(name);
	sign[size / 2] ^= 1;
	EVP_MD_CTX_reset(context);
	if (!EVP_DigestVerifyInit(context, NULL, md, NULL, key) ||
	    EVP_DigestVerify(context, sign, size, plain, SIZE) == 1)
		fail(name);
	ERR_clear_error();
	printf("%s accepts what it signed\n", name);
	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
}

static void power(void)
{
	BN_CTX *context = BN_CTX_new();
	BIGNUM *base = BN_new(), *exponent = BN_new(), *modulus = BN_new(), *result = BN_new();

	/* 2^2203 - 1 is prime; odd, so that Montgomery's multiplication is used. */
	BN_one(modulus);
	BN_lshift(modulus, modulus, 2203);
	BN_sub_word(modulus, 1);
	BN_bin2bn(plain, 250, base);
	BN_bin2bn(plain + 250, 250, exponent);
	if (!BN_mod_exp(result, base, exponent, modulus, context))
		fail("power");
	printf("power %s\n", BN_bn2hex(result));
}

static void *in_thread(void *arg)
{
	unsigned char *md = arg;

	if (!EVP_Digest(plain, SIZE, md, NULL, EVP_sha512(), NULL) || RAND_bytes(md + 64, 32) != 1)
		fail("a thread");
	return NULL;
}

static void threads(void)
{
	static unsigned char md[THREADS][96];
	pthread_t id[THREADS];
	int same = 0, random = 0;

	for (int n = 0; n < THREADS; n++)
		if (pthread_create(&id[n], NULL, in_thread, md[n]))
			fail("pthread_create");
	for (int n = 0; n < THREADS; n++)
		pthread_join(id[n], NULL);
	for (int n = 1; n < THREADS; n++) {
		same += memcmp(md[0], md[n], 64) == 0;
		random += memcmp(md[0] + 64, md[n] + 64, 32) != 0;
	}
	printf("threads: %d equal digests, %d different numbers\n", same, random);
}

__attribute__((noinline)) static void smash(size_t size)
{
	char array[16] = "", *at = array;

	asm volatile("" : "+r"(at) : : "memory");	/* who knows where it points now? */
	memset(at, 'x', size);
}	/* here it is looked at */

int main(int argc, char **argv)
{
	uintptr_t canary;

	if (argc > 1 && strcmp(argv[1], "smash") == 0) {
		smash(64);
		printf("not noticed\n");
		return 0;
	}
	for (size_t n = 0; n < SIZE; n++)
		plain[n] = n * n / 31 ^ n >> 7;
	printf("%s\n", OPENSSL_info(OPENSSL_INFO_CPU_SETTINGS));
	for (size_t n = 0; n < sizeof(digests) / sizeof(digests[0]); n++)
		digest(digests[n]);
	cipher("AES-128-CBC", 0);
	cipher("AES-256-CBC", 0);
	cipher("AES-256-CTR", 0);
	cipher("AES-256-GCM", 1);
	cipher("AES-128-OCB", 1);
	cipher("CAMELLIA-256-CBC", 0);
	cipher("ChaCha20-Poly1305", 1);
	power();
	signature("RSA", EVP_RSA_gen(2048), EVP_sha256());
	signature("P-256", EVP_EC_gen("P-256"), EVP_sha256());
	signature("Ed25519", EVP_PKEY_Q_keygen(NULL, NULL, "ED25519"), NULL);
	threads();
	asm("mov %%fs:0x28, %0" : "=r"(canary));
	printf("canary: %s\n", canary && !(canary & 0xff) ? "set" : "not set");
	return 0;
}
