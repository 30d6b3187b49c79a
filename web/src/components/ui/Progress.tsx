/** How far something is that takes a while. */

import "./Progress.css";

interface Props {
  label: string;
  /** Done so far and in all; without a total, it only says that something goes on. */
  done?: number;
  total?: number;
}

export function Progress({ label, done = 0, total = 0 }: Props) {
  return total ? (
    <progress class="progress" aria-label={label} value={Math.min(done, total)} max={total} />
  ) : (
    <progress class="progress" aria-label={label} />
  );
}
