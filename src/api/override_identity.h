/* override_identity.h - libc's functions that change whose rights the process has.
 */
#ifndef HAKMEM_API_OVERRIDE_IDENTITY_H
#define HAKMEM_API_OVERRIDE_IDENTITY_H

/* Says that they are watched here: from then on a process with rights to lose may have a thread that libc does not know of. */
void identity_watch(void);

#endif
