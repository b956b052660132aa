/* profile.h - what HAKMEM_PROFILE asks for, at the process's start and end.
 */
#ifndef HAKMEM_API_PROFILE_H
#define HAKMEM_API_PROFILE_H

/* When the library is loaded; and when the process ends. */
void profile_start_process(void);
void profile_end_process(void);

#endif
