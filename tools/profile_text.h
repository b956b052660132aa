/* profile_text.h - profiles as text: a table of functions, stacks, folded stacks.
 */
#ifndef HAKMEM_TOOLS_PROFILE_TEXT_H
#define HAKMEM_TOOLS_PROFILE_TEXT_H

#include "heap_profile.h"

#include <stdio.h>

/* Functions, those with most of their own first: what they have allocated themselves, and with what they call. At most `top`, 0
 * for all. */
void text_write_top(struct heap_profile *profile, enum heap_value value, unsigned top, FILE *out);

/* What is live, by stacks, the largest first. At most `top`, 0 for all. */
void text_write_leaks(struct heap_profile *profile, unsigned top, FILE *out);

/* One line a stack, "outermost;...;innermost N", as flame graph tools read it. Equal ones are added up, and what is 0 left out. */
void text_write_folded(struct heap_profile *profile, enum heap_value value, FILE *out);

#define TEXT_AMOUNT_BYTES 32

/* "1234 B", "12.3 MiB"; a count as it is. With `sign`, "+" before what is above 0. Returns text. */
char *text_amount(char text[TEXT_AMOUNT_BYTES], int64_t amount, enum heap_value value, bool sign);

/* "12.3 MiB +- 0.4 MiB": bytes with the 95 % bounds of their estimate, if there are any. */
void text_print_estimate(FILE *out, int64_t bytes, double variance, bool sign);

/* The frames of a stack, one a line, "    name  file:line", the innermost first. */
void text_print_stack(const struct heap_frame *frame, uint32_t n_frames, FILE *out);

#endif
