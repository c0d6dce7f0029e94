/* SPDX-License-Identifier: Apache-2.0 */
#define RELEASE "stable"
#define VERSION "2.36"
